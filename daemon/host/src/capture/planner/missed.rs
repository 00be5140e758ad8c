//! Which calls went by unseen, and what that makes of a connection's coverage.
//!
//! *The rule of missed calls*: at the end of a connection to a provider a call was missed if
//! 1. it was established and moved enough for a request (see [`REQUEST_SENT_MIN`]), and
//! 2. its session shows no content; or it does, from a request on, but the session was named before its process was
//!    armed and the connection carried more than that content accounts for (see [`unexplained`]), and
//! 3. the reason can be lateness: the process's TLS library is one that we read, and the connection began before the
//!    process was armed.
//!
//! How many calls went by over one connection is not known: one record stands for at least one.
//!
//! A named session without any connection is judged the same way at its own end, by its content alone. So every
//! connection and every session is judged once, at its end, and gives at most one [`Command::Missed`]. A connection of
//! an armed process without a session is not late but dark, and its flow says so.

use super::*;

/// Bytes that a client sends before its first request at most count as handshake: a ClientHello of OpenSSL 3 (517), the
/// dummy change of cipher (6) and a Finished with SHA-384 (74) are 597; a request line with a Host header in a record
/// adds 80. Post-quantum key shares add 1,200 to the first, so that a bare handshake with them passes for a call.
const REQUEST_SENT_MIN: u64 = 680;

impl Planner {
    /// The rule of missed calls.
    pub(super) fn is_missed(&self, flow: &FlowState, host: &str, bytes: Option<(u64, u64)>) -> bool {
        let mixed = self.directory.lookup(host).is_some_and(|provider| provider.mixed);
        let moved = bytes.is_none_or(|(sent, received)| sent >= REQUEST_SENT_MIN && received > 0);
        if mixed || flow.found || !flow.established || !moved {
            return false;
        }
        let unseen = match flow.covered {
            Covered::FromRequest { surely: true } => false,
            Covered::FromRequest { surely: false } => {
                unexplained(bytes.map(|(sent, _)| sent), flow.session_sent)
            }
            // The pipeline was told that it joined late: it makes the record itself when the answer comes.
            Covered::Late => false,
            Covered::Nothing => self.armed_at(flow.process).is_none_or(|armed| armed > flow.connected),
        };
        let readable = self.processes.get(&flow.process.pid).is_some_and(|process| {
            let known =
                flow.session.is_some() || !process.tls_files.is_empty() || !process.attachments.is_empty();
            known || matches!(process.dark, None | Some(DarkReason::Gone))
        });
        unseen && readable && self.options.scope != Scope::Off
    }

    /// An address is shared by many hosts. In a process whose TLS library was watched from before the connection on, a
    /// connection to the provider would have a session with its name: without one it went elsewhere.
    pub(super) fn is_refuted(&self, flow: &FlowState, host: &HostEvidence) -> bool {
        let watched = self.armed_at(flow.process).is_some_and(|armed| armed <= flow.connected);
        host.identified_by == IdentifiedBy::Getaddrinfo && flow.session.is_none() && watched
    }

    pub(super) fn coverage_of(&self, flow: &FlowState, missed: bool, metadata: Option<Reason>) -> Coverage {
        if self.options.scope == Scope::Off {
            return Coverage::Dark(DarkReason::SwitchedOff);
        }
        match (flow.covered, metadata) {
            (_, Some(reason)) => Coverage::MetadataOnly(reason),
            _ if missed => Coverage::MetadataOnly(Reason::LateAttach),
            (Covered::FromRequest { .. }, None) => Coverage::Captured,
            (Covered::Late, None) => Coverage::MetadataOnly(Reason::LateAttach),
            (Covered::Nothing, None) => {
                let process = self.processes.get(&flow.process.pid);
                let dark = process.and_then(|process| process.dark);
                match (dark, flow.session.is_some()) {
                    (Some(reason), false) => Coverage::Dark(reason),
                    (None, false) => Coverage::Dark(DarkReason::UnknownTlsLibrary),
                    // Its session is known and carried nothing: there was no call.
                    (_, true) => Coverage::Captured,
                }
            }
        }
    }

    pub(super) fn missed(&mut self, process: ProcessKey, host: HostEvidence, started: Moment) {
        self.note_host(process.pid, &host.host, started);
        if let Some(state) =
            self.processes.get_mut(&process.pid).and_then(|known| known.hosts.get_mut(&host.host))
        {
            state.late += 1;
        }
        self.out.push(Command::Count(Tally::LateAttach));
        self.out.push(Command::Missed { process, host, started, reason: Reason::LateAttach });
    }
}

/// True if a connection sent clearly more than its handshake and the plaintext of its session in records explain: a
/// post-quantum ClientHello with the rest of the handshake stays below 2,500 bytes, and records of 100 bytes and more
/// add less than a quarter.
fn unexplained(sent: Option<u64>, plaintext: Option<u64>) -> bool {
    let (Some(sent), Some(plaintext)) = (sent, plaintext) else { return false };
    sent > plaintext.saturating_add(plaintext / 4).saturating_add(2_500)
}
