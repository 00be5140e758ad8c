//! What the planner is told, and what it wants done: its whole surface towards the thread around it.

use std::sync::Arc;

use abi::attacher::Place;
use abi::control::{DatagramKey, DatagramState};
use abi::event::{Task, Tuple};
use meter::exchange::Reason;
use meter::pipeline::{Direction, HostEvidence};
use meter::record::Flow;
use meter::time::Moment;
use meter::workload::ProcessKey;

use crate::capture::elf::Anatomy;
use crate::capture::event::{KernelEvent, SessionIdentity};
use crate::capture::image::{FileKey, Mapping};
use crate::capture::inventory::{Connection, Image};
use crate::capture::routes::Routes;
use crate::capture::status::{Loss, Tally};
use crate::shards::Decision;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A record of the events ring.
    Kernel(KernelEvent),
    /// First content of a session, as the ring thread saw it.
    FirstContent(FirstContent),
    /// The mappings of a process, asked for by [`Command::ReadMaps`].
    Maps(u32, Result<Vec<Mapping>, Refused>),
    /// A mapped file, asked for by [`Command::OpenLibrary`].
    Library(FileKey, Result<OpenedFile, Refused>),
    /// Answer to [`Command::Attach`].
    Attached {
        /// For whom; `None` for once-per-session hooks.
        process: Option<ProcessKey>,
        /// File as the planner knows it.
        file: FileKey,
        /// File as the attacher knew it when it was asked.
        number: u64,
        /// The attachment.
        result: Result<u64, Refused>,
    },
    /// A file was written, by its number at the attacher, which lets go of everything on it.
    Rewritten(u64),
    /// A pipeline decided on a session.
    Decided(Decision),
    /// A pipeline learnt a host from a Host header.
    HostSeen(ProcessKey, HostEvidence),
    /// A process that was there at the start.
    FoundImage(Image),
    /// A connection that was there at the start.
    FoundConnection(Connection),
    /// The routing table.
    Routes(Routes),
    /// Answer to [`Command::TapOpen`].
    TapOpened(u32, Result<(), Refused>),
    /// Answer to [`Command::TapClose`].
    TapClosed(u32),
    /// Answer to [`Command::FindOwner`].
    Owner(Tuple, Option<ProcessKey>),
    /// What the kernel has counted of QUIC connections while [`follows_datagrams`](super::Planner::follows_datagrams).
    Datagrams(Vec<(DatagramKey, DatagramState)>),
    /// Time passed.
    Tick,
    /// The daemon stops: connections that are open are recorded.
    Stop,
}

/// See [`Event::FirstContent`].
#[derive(Clone, Copy, Debug)]
pub struct FirstContent {
    /// Session.
    pub identity: SessionIdentity,
    /// Its process.
    pub process: ProcessKey,
    /// Direction.
    pub direction: Direction,
    /// The bytes look like the start of a request.
    pub request: bool,
    /// When.
    pub at: Moment,
}

/// A file the attacher opened and main dissected.
#[derive(Clone, Debug)]
pub struct OpenedFile {
    /// Number at the attacher: of this content of the file.
    pub number: u64,
    /// What is in it; `None` if it is not an ELF file that can be read.
    pub anatomy: Option<Arc<Anatomy>>,
    /// Its name.
    pub name: Arc<str>,
}

/// Why a command was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The process, mapping or file is gone.
    Gone,
    /// It exists and cannot be read or parsed.
    Unreadable,
    /// The attacher or the kernel refused.
    Denied,
    /// A limit is reached; later it may work.
    Limit,
    /// The file was written since it was opened; opened again it may work.
    Stale,
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Read the mappings of a process.
    ReadMaps(ProcessKey),
    /// Open and dissect a mapped file.
    OpenLibrary(ProcessKey, Mapping),
    /// Attach places of a file, for one process or for all.
    Attach {
        /// Process; `None` for once-per-session hooks.
        process: Option<ProcessKey>,
        /// File as the planner knows it.
        file: FileKey,
        /// File as the attacher knows it.
        number: u64,
        /// Places.
        places: Vec<Place>,
    },
    /// Detach.
    Detach(u64),
    /// Open a tap.
    TapOpen(u32),
    /// Close a tap.
    TapClose(u32),
    /// Find out who a process is while it can be looked at.
    Resolve(ProcessKey, Box<Task>),
    /// The same for a process whose task no event told of.
    Identify(ProcessKey),
    /// Find the process that holds the UDP socket of a connection.
    FindOwner(Tuple),
    /// Remove connections from the kernel's table.
    ForgetDatagrams(Vec<DatagramKey>),
    /// Nothing of this process will come any more.
    Forget {
        /// Which.
        process: ProcessKey,
        /// Its coverage is shown for a while.
        shown: bool,
    },
    /// Open a session in its shard.
    Open {
        /// Session.
        identity: SessionIdentity,
        /// Whose.
        process: ProcessKey,
        /// Host, if known.
        host: Option<HostEvidence>,
        /// Bytes may have passed before.
        joined_late: bool,
    },
    /// Name an open session.
    Named(SessionIdentity, HostEvidence),
    /// Close a session.
    Close {
        /// Session.
        identity: SessionIdentity,
        /// Bytes written, if the kernel told.
        sent: Option<u64>,
        /// Bytes read, if the kernel told.
        received: Option<u64>,
    },
    /// A call went by unseen.
    Missed {
        /// Whose.
        process: ProcessKey,
        /// Whom it called.
        host: HostEvidence,
        /// When.
        started: Moment,
        /// Why.
        reason: Reason,
    },
    /// Record a connection.
    Flow {
        /// Whose.
        process: ProcessKey,
        /// Connection.
        flow: Box<Flow>,
        /// When it began.
        started: Moment,
    },
    /// Write the kernel's verdict map.
    Verdict(SessionIdentity, abi::control::Verdict),
    /// Count a loss.
    Lost(Loss),
    /// Count something else.
    Count(Tally),
    /// A process was armed this many ns after it became wanted.
    ArmedAfter(u64),
}
