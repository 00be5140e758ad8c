//! A TCP relay that delays a connection and its every byte by a fixed time per direction: distance, where netem is missing.
//!
//! It may also be narrow: only so many bytes are on their way at once, and the rest waits in the sender's socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Of the receiving sockets of a narrow relay, in bytes: set, the kernel does not let it grow.
const NARROW_RECEIVE_BUFFER: u32 = 16 * 1024;

/// What lies between a client and its provider.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Per direction.
    pub delay: Duration,
    /// The most bytes on their way per direction, 64 KiB or more; `None`: as many as come.
    pub window: Option<u32>,
}

/// Listens on `listen` and relays to `target` over `distance`, until the runtime ends.
///
/// The kernel answers the SYN at once, so the round trip that a real network takes for it is added to what the client
/// sends first: over TLS 1.3 its request leaves two round trips after its connect.
pub async fn spawn(listen: SocketAddr, target: SocketAddr, distance: Distance) -> anyhow::Result<()> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if distance.window.is_some() {
        socket.set_recv_buffer_size(NARROW_RECEIVE_BUFFER)?;
    }
    socket.bind(listen)?;
    let listener = socket.listen(1024)?;
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            tokio::spawn(async move {
                let established = Instant::now() + 2 * distance.delay;
                let Ok(outbound) = TcpStream::connect(target).await else { return };
                let _ = inbound.set_nodelay(true);
                let _ = outbound.set_nodelay(true);
                let (from_client, to_client) = inbound.into_split();
                let (from_server, to_server) = outbound.into_split();
                tokio::join!(
                    pump(from_client, to_server, distance, established),
                    pump(from_server, to_client, distance, established)
                );
            });
        }
    });
    Ok(())
}

/// Listens on `listen`, ends TLS with `tls`, and relays the plaintext to `server`, until the runtime ends.
pub async fn terminate(
    listen: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    server: SocketAddr,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let _ = inbound.set_nodelay(true);
                let Ok(mut inbound) = acceptor.accept(inbound).await else { return };
                let Ok(mut outbound) = TcpStream::connect(server).await else { return };
                let _ = outbound.set_nodelay(true);
                // A client that hangs up in the middle is part of the tests.
                let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
            });
        }
    });
    Ok(())
}

/// Copies one direction: a reader that stamps each piece with its due time, a writer that waits for it. What came before
/// the connection is `established` counts as sent then.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    distance: Distance,
    established: Instant,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let window = &distance.window.map(|bytes| Semaphore::new(bytes as usize));
    let reader = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if let Some(window) = window {
                window.acquire_many(read as u32).await.expect("never closed").forget();
            }
            let due = Instant::now().max(established) + distance.delay;
            if sender.send((due, buffer[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writer = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            if let Some(window) = window {
                window.add_permits(bytes.len());
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reader, writer);
}
