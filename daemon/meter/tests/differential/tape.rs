//! The bytes of a connection as its client moved them, in the order in which it did: what a probe at a library's
//! boundary sees.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use meter::flow::Direction;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that were moved at once.
pub(crate) type Move = (Direction, Vec<u8>);

/// What was moved, shared by a [`Tap`] and whoever reads it afterwards.
#[derive(Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<Vec<Move>>>);

impl Tape {
    fn add(&self, direction: Direction, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((direction, bytes.to_vec()));
        }
    }

    pub(crate) fn take(&self) -> Vec<Move> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A client's transport that notes what passes.
pub(crate) struct Tap<T> {
    pub(crate) inner: T,
    pub(crate) tape: Tape,
}

impl<T: AsyncRead + Unpin> AsyncRead for Tap<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        let before = into.filled().len();
        let done = Pin::new(&mut tap.inner).poll_read(cx, into);
        tap.tape.add(Direction::Received, into.filled().get(before..).unwrap_or_default());
        done
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tap<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tap = self.get_mut();
        let done = Pin::new(&mut tap.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = done {
            tap.tape.add(Direction::Sent, bytes.get(..written).unwrap_or_default());
        }
        done
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// Runs a conversation on one thread, so that it goes the same way every time.
pub(crate) fn converse<T>(conversation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap_or_else(|error| panic!("{error}")).block_on(conversation)
}
