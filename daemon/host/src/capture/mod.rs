//! From the attacher's rings to the pure pipeline.

pub mod attacher_client;
pub mod event;
pub mod image;
pub mod mailbox;
pub mod status;
