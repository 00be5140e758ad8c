//! The resolver as the planner uses it: files are opened by the attacher.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use abi::attacher::{Request, StateFile};
use abi::event::Task;
use meter::workload::{ProcessKey, Workload};

use super::{Resolver, StateFiles};
use crate::capture::attacher_client::{Attacher, open_maps, open_state};
use crate::capture::shell::Identify;

/// How long an answer of the attacher is waited for. It takes 0.1 ms, or as long as the attachment before it; a node
/// that is out of processor time makes it longer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long nothing is asked after an answer that did not come: the planner has other things to do.
const PAUSE: Duration = Duration::from_secs(5);

/// Files that the attacher opens for us. Not for its reply thread: it waits for the answer.
pub struct AttacherFiles {
    attacher: Attacher,
    paused_at: Mutex<Option<Instant>>,
}

impl AttacherFiles {
    /// Files opened by `attacher`.
    pub fn new(attacher: Attacher) -> AttacherFiles {
        AttacherFiles { attacher, paused_at: Mutex::default() }
    }

    fn ask(&self, request: Request) -> io::Result<File> {
        let mut paused_at = self.paused_at.lock().unwrap_or_else(PoisonError::into_inner);
        if paused_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let answer = self.attacher.call(request, PATIENCE);
        let timed_out = answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        *paused_at = timed_out.then(Instant::now);
        Ok(File::from(answer?.descriptor.ok_or(io::ErrorKind::NotFound)?))
    }
}

impl StateFiles for AttacherFiles {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<File> {
        self.ask(open_state(kind, id).ok_or(io::ErrorKind::InvalidInput)?)
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<File> {
        self.ask(open_maps(process))
    }
}

impl Identify for Resolver {
    fn on_exec(&mut self, task: &Task) {
        Resolver::on_exec(self, task);
    }

    fn on_fork(&mut self, parent: &Task, child: ProcessKey) {
        Resolver::on_fork(self, parent, child);
    }

    fn on_exit(&mut self, process: ProcessKey) {
        Resolver::on_exit(self, process);
    }

    fn resolve(&mut self, process: ProcessKey, task: Option<&Task>) -> Arc<Workload> {
        Resolver::resolve(self, process, task, None)
    }
}
