//! One thread that empties both rings: copies out, releases, hands on, and does nothing else.
//!
//! Order matters once: what ends a session must not overtake its content, and the two travel in different rings. So a
//! turn takes a batch of events first and the content second, and hands on what *ends* something only after the content
//! that was there. What *begins* something may come after its first content; the shards hold that.
//!
//! The kernel wakes a reader only by the record that finds the ring empty, and that wake-up is paid by the application
//! whose record it is: an interrupt and a switch, several times the cost of all else its record costs it. So content
//! is taken at most every [`PACE_MS`]: the first record after a pause at once, a stream of them together. Events are
//! taken at once; they decide whether a process is armed in time.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::event::{KernelEvent, SessionIdentity, parse, parse_chunk, starts_a_request};
use super::mailbox::Mailbox;
use super::planner::{Event, FirstContent};
use super::status::{CaptureStatus, Loss};
use super::tables::Rings;
use crate::shards::{OwnedChunk, Payload, ShardSenders};

/// Events of one turn.
const EVENTS_BATCH: usize = 1_024;
/// Content records of one turn: bounded so that events do not wait behind a flood.
const CONTENT_BATCH: usize = 4_096;
/// Content drained before something ends is told, at most: eight default rings.
const CONTENT_RING_BYTES_MAX: usize = 64 << 20;
/// Sessions whose first content was told to the planner. When full, all are told again, which it ignores.
const TOLD_MAX: usize = 32_768;
/// Weight of an event in the planner's mailbox.
const EVENT_WEIGHT: usize = 1;
/// How often the thread looks whether it shall end.
const TURN_MS: u16 = 200;
/// Shortest time between two turns for content alone. A ring of the default size holds what 8 GB/s bring in it.
const PACE_MS: u16 = 2;

/// What the thread works with.
pub(super) struct RingReader {
    pub(super) rings: Rings,
    pub(super) planner: Mailbox<Event>,
    pub(super) shards: ShardSenders,
    pub(super) status: Arc<CaptureStatus>,
    pub(super) stop: Arc<AtomicBool>,
}

impl RingReader {
    /// Reads until told to stop, then once more, so that nothing that was handed out is left behind.
    pub(super) fn run(mut self) {
        let mut told = HashSet::new();
        let mut ending = Vec::new();
        loop {
            let stopping = self.stop.load(Ordering::Acquire);
            let busy = self.turn(&mut told, &mut ending);
            if stopping {
                // A flood must not keep the daemon alive: one last turn is what the promise says.
                return;
            }
            if !busy {
                self.wait();
            }
        }
    }

    fn wait(&self) {
        let mut ready = [
            PollFd::new(self.rings.events.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.rings.content.as_fd(), PollFlags::POLLIN),
        ];
        // An error is an interruption; the next turn looks for itself.
        if poll(&mut ready[..1], PollTimeout::from(PACE_MS)) == Ok(0) {
            let _ = poll(&mut ready, PollTimeout::from(TURN_MS));
        }
    }

    /// True if a batch was full, so that more may be waiting.
    fn turn(&mut self, told: &mut HashSet<SessionIdentity>, ending: &mut Vec<KernelEvent>) -> bool {
        let mut events = 0;
        while events < EVENTS_BATCH {
            let Some(item) = self.rings.events.next() else { break };
            let event = parse(&item);
            drop(item);
            events += 1;
            match event {
                Ok(event) if event.ends_something() => ending.push(event),
                Ok(event) => self.tell(event),
                Err(_) => self.status.lost(Loss::MalformedRecord, 1),
            }
        }
        let (mut chunks, mut drained) = (0, 0);
        loop {
            let Some(item) = self.rings.content.next() else { break };
            drained += item.len();
            let owned = parse_chunk(&item).map(|chunk| {
                let first = FirstContent {
                    identity: chunk.session,
                    process: chunk.process,
                    direction: chunk.direction,
                    request: starts_a_request(chunk.payload),
                    at: chunk.at,
                };
                let owned = OwnedChunk {
                    identity: chunk.session,
                    process: chunk.process,
                    direction: chunk.direction,
                    offset: chunk.offset,
                    opposite: chunk.opposite,
                    at: chunk.at,
                    payload: Payload::copy_of(chunk.payload),
                };
                (first, owned)
            });
            drop(item);
            chunks += 1;
            match owned {
                Ok((first, owned)) => self.hand_on(first, owned, told),
                Err(_) => self.status.lost(Loss::MalformedRecord, 1),
            }
            // Before something ends, the content that preceded it is drained: at most what the ring can hold, so that
            // a flood neither starves the events nor holds up the end.
            if chunks >= CONTENT_BATCH && (ending.is_empty() || drained >= CONTENT_RING_BYTES_MAX) {
                break;
            }
        }
        for event in ending.drain(..) {
            if let KernelEvent::SessionFreed(freed) = &event {
                told.remove(&SessionIdentity {
                    tgid: freed.tgid,
                    ssl: freed.ssl,
                    opened_ns: freed.opened_ns,
                });
            }
            self.tell(event);
        }
        events >= EVENTS_BATCH || chunks >= CONTENT_BATCH
    }

    fn hand_on(&self, first: FirstContent, chunk: OwnedChunk, told: &mut HashSet<SessionIdentity>) {
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        if told.insert(first.identity)
            && self.planner.offer(Event::FirstContent(first), EVENT_WEIGHT).is_err()
        {
            told.remove(&first.identity);
            self.status.lost(Loss::PlannerFull, 1);
        }
        self.shards.chunk(chunk);
    }

    fn tell(&self, event: KernelEvent) {
        if self.planner.offer(Event::Kernel(event), EVENT_WEIGHT).is_err() {
            self.status.lost(Loss::PlannerFull, 1);
        }
    }
}
