//! Everything that touches the host or the network: capture, resolve, serving, wiring.
