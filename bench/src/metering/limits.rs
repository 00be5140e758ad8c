//! What the meter is compared with: each reads the same bytes, or a part of what it has to know of them.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Connection;
use crate::measure::{Side, side};

/// A full parse of every document: of a copy, because an observer may not write into its only buffer.
pub(super) fn parse(documents: &[Vec<u8>]) {
    for document in documents {
        let mut text = document.clone();
        assert!(simd_json::to_borrowed_value(&mut text).is_ok());
    }
}

/// A copy of all bytes.
pub(super) fn copy(bytes: &[u8]) -> Side<'static> {
    let from = bytes.to_vec();
    let mut to = vec![0; from.len()];
    side(move || {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
    })
}

/// Both heads by `httparse`.
pub(super) fn read_heads([request, response]: &[Vec<u8>; 2]) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let read = httparse::Request::new(&mut fields).parse(std::hint::black_box(request));
    assert!(read.is_ok_and(|status| status.is_complete()));
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let read = httparse::Response::new(&mut fields).parse(std::hint::black_box(response));
    assert!(read.is_ok_and(|status| status.is_complete()));
}

/// A body that was compressed with gzip, by `flate2`, in pieces of 16 KB.
pub(super) fn unpack(packed: &[u8]) {
    let mut decoder = flate2::read::GzDecoder::new(packed);
    let mut piece = [0; 16 * 1024];
    while decoder.read(&mut piece).is_ok_and(|read| read > 0) {
        std::hint::black_box(&piece);
    }
}

/// Exchanges on one connection of the `h2` crate, after the one that opens it.
const EXCHANGES: usize = 64;

/// Seconds per exchange that the `h2` crate takes for the same frames: a server reads what is sent, a client what is
/// received, both from memory. What they write themselves goes nowhere.
pub(super) fn h2_seconds(span: Duration, connection: &Connection) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut connection = connection.clone();
    let [mut sent, mut received] = connection.opening.clone();
    for _ in 0..EXCHANGES {
        connection.next_stream();
        sent.extend_from_slice(&connection.sent);
        received.extend_from_slice(&connection.received);
    }
    let (sent, received) = (Bytes::from(sent), Bytes::from(received));
    let [opening_sent, opening_received] = [SETTINGS_SENT, SETTINGS_RECEIVED];
    let read = || -> anyhow::Result<Duration> {
        let server = runtime.block_on(serve(Tape::new(sent.clone(), opening_sent)))?;
        Ok(server + runtime.block_on(call(Tape::new(received.clone(), opening_received)))?)
    };
    read()?;
    let (started, mut spent, mut runs) = (Instant::now(), Duration::ZERO, 0_u32);
    while runs == 0 || started.elapsed() < span {
        spent += read()?;
        runs += 1;
    }
    Ok(spent.as_secs_f64() / f64::from(runs) / (EXCHANGES + 1) as f64)
}

/// The preface, settings and their acknowledgement.
const SETTINGS_SENT: usize = 24 + SETTINGS_RECEIVED;
const SETTINGS_RECEIVED: usize = 2 * 9;
/// RFC 9113, 6.9.1: no window is larger.
const WINDOW: u32 = (1 << 31) - 1;

/// Reads all requests as a server; how long that took.
async fn serve(tape: Tape) -> anyhow::Result<Duration> {
    let gate = Arc::clone(&tape.open);
    let mut builder = h2::server::Builder::new();
    let handshake = builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(tape);
    let mut connection = handshake.await?;
    let started = Instant::now();
    gate.store(true, Ordering::Relaxed);
    let mut bodies = Vec::new();
    for _ in 0..=EXCHANGES {
        let (request, mut respond) = connection.accept().await.context("h2 read too few requests")??;
        respond.send_response(http::Response::new(()), true)?;
        bodies.push(tokio::spawn(drain(request.into_body())));
    }
    // Reads on while the last bodies are waited for.
    let connection = tokio::spawn(async move { connection.accept().await.is_some() });
    for body in bodies {
        body.await??;
    }
    let took = started.elapsed();
    connection.abort();
    Ok(took)
}

/// Makes as many requests as there are answers, then reads these as a client; how long that took.
async fn call(tape: Tape) -> anyhow::Result<Duration> {
    let gate = Arc::clone(&tape.open);
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    builder.initial_max_send_streams(EXCHANGES + 1);
    let (mut send, connection) = builder.handshake::<_, Bytes>(tape).await?;
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..=EXCHANGES {
        send = send.ready().await?;
        let request = http::Request::post("https://host/").body(())?;
        answers.push(send.send_request(request, true)?.0);
    }
    // Until the requests are written and the settings that open the windows are in force.
    for _ in 0..EXCHANGES {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    gate.store(true, Ordering::Relaxed);
    for answer in answers {
        drain(answer.await?.into_body()).await?;
    }
    let took = started.elapsed();
    connection.abort();
    Ok(took)
}

async fn drain(mut body: h2::RecvStream) -> anyhow::Result<()> {
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}

/// One direction of a connection, from memory: its first bytes at once, the rest in pieces of 16 KB when it is open,
/// with a turn for everyone else before each, as a socket gives. It never ends: `h2` drops what waits when it does.
struct Tape {
    bytes: Bytes,
    at: usize,
    free: usize,
    open: Arc<AtomicBool>,
    rested: bool,
}

impl Tape {
    fn new(bytes: Bytes, free: usize) -> Tape {
        Tape { bytes, at: 0, free, open: Arc::new(AtomicBool::new(false)), rested: false }
    }
}

impl AsyncRead for Tape {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let open = self.open.load(Ordering::Relaxed);
        let end = if open { self.bytes.len() } else { self.free };
        let piece = into.remaining().min(16 * 1024).min(end - self.at);
        self.rested = !self.rested;
        if self.rested || piece == 0 {
            // Nothing more comes when all of it was read.
            if piece > 0 || !open {
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        into.put_slice(&self.bytes[self.at..self.at + piece]);
        self.at += piece;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tape {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
