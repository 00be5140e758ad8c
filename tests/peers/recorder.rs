//! A relay that keeps what passes, connection by connection, in the order in which it passed: plaintext as a probe at
//! a library's boundary sees it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use meter::pipeline::Direction;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// What passed on one connection.
pub(crate) type Recording = Vec<(Direction, Vec<u8>)>;

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    /// A port on loopback.
    Port(u16),
    /// A socket in a folder of the test.
    Socket(PathBuf),
}

/// A relay in front of a server.
pub(crate) struct Recorder {
    /// Where clients find it on loopback.
    pub(crate) port: u16,
    connections: Arc<Mutex<Vec<Arc<Mutex<Recording>>>>>,
}

impl Recorder {
    /// Relays to `server` until the runtime ends.
    pub(crate) async fn before(server: Server) -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let port = listener.local_addr().expect("its address").port();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let recording = Arc::new(Mutex::new(Recording::new()));
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&recording));
                let server = server.clone();
                tokio::spawn(async move {
                    match server {
                        Server::Port(port) => {
                            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                            relay(client, server, &recording).await;
                        }
                        Server::Socket(path) => {
                            let server = UnixStream::connect(path).await.expect("the server");
                            relay(client, server, &recording).await;
                        }
                    }
                });
            }
        });
        Recorder { port, connections }
    }

    /// What passed so far.
    pub(crate) fn recordings(&self) -> Vec<Recording> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }
}

/// Copies both directions until one of them ends; a byte is recorded before it is handed on.
async fn relay<A, B>(mut client: A, mut server: B, recording: &Mutex<Recording>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let keep = |direction, bytes: &[u8]| {
        recording.lock().unwrap_or_else(PoisonError::into_inner).push((direction, bytes.to_vec()));
    };
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(read @ 1..) => {
                    keep(Direction::Sent, &up[..read]);
                    if server.write_all(&up[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(read @ 1..) => {
                    keep(Direction::Received, &down[..read]);
                    if client.write_all(&down[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
