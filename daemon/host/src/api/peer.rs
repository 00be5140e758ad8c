//! Connections of the unix socket, each with what the kernel says of its peer.
//!
//! `SO_PEERCRED` names user and primary group of the process that connected, `SO_PEERGROUPS` its supplementary groups;
//! both are fixed at connect and cannot be forged. A connection whose peer cannot be told is closed.
#![expect(unsafe_code, reason = "no wrapper crate offers SO_PEERGROUPS")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use super::access::Peer;

/// Supplementary groups that are read of one peer; a process with more is refused.
const GROUPS_MAX: usize = 65_536;

/// A connected client.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    peer: Peer,
}

/// Accepts clients for ever. Failures to accept (descriptors exhausted, peer gone) are logged and waited out.
pub(super) fn clients(listener: UnixListener) -> impl futures::Stream<Item = io::Result<Client>> {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            let accepted = match listener.accept().await {
                Ok((stream, _)) => Client::new(stream),
                Err(error) => Err(error),
            };
            match accepted {
                Ok(client) => return Some((Ok(client), listener)),
                Err(error) => {
                    tracing::debug!(%error, "a client could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        }
    })
}

impl Client {
    fn new(stream: UnixStream) -> io::Result<Client> {
        let credentials = stream.peer_cred()?;
        let mut gids = groups(stream.as_fd())?;
        gids.push(credentials.gid());
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let peer = Peer { uid: credentials.uid(), gids, pid };
        Ok(Client { stream, peer })
    }
}

fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut gids: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(gids.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the buffer is valid for `bytes` bytes of plain integers, and the kernel writes at most as many.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                gids.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = usize::try_from(bytes).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if result == 0 {
            gids.truncate(count);
            return Ok(gids);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The kernel has stored the length that is needed.
            Some(libc::ERANGE) if count > gids.len() && count <= GROUPS_MAX => gids.resize(count, 0),
            // Before Linux 4.13: the primary group alone counts.
            Some(libc::ENOPROTOOPT) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}

impl Connected for Client {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
