//! What the meter promises, as laws and tables. No file of a recording is needed.

mod answers;
mod broken;
mod dialects;
mod facts;
mod grpc;
mod harness;
mod http1;
mod http2;
mod joined;
mod later;
mod laws;
mod objects;
mod operations;
mod replay;
mod sessions;
mod websocket;
