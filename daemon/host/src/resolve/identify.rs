//! The resolver as the planner uses it: files are opened by the attacher.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use abi::attacher::StateFile;
use abi::event::Task;
use meter::workload::{ProcessKey, Workload};

use super::{Resolver, StateFiles};
use crate::capture::attacher_client::{Attacher, open_maps, open_state};
use crate::capture::shell::Identify;

/// How long an answer of the attacher is waited for. It takes 0.1 ms, or as long as the attachment before it.
const PATIENCE: Duration = Duration::from_millis(100);

/// Files that the attacher opens for us. Not for its reply thread: it waits for the answer.
pub struct AttacherFiles(pub Attacher);

impl StateFiles for AttacherFiles {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<File> {
        let request = open_state(kind, id).ok_or(io::ErrorKind::InvalidInput)?;
        let answer = self.0.call(request, PATIENCE)?;
        Ok(File::from(answer.descriptor.ok_or(io::ErrorKind::NotFound)?))
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<File> {
        let answer = self.0.call(open_maps(process), PATIENCE)?;
        Ok(File::from(answer.descriptor.ok_or(io::ErrorKind::NotFound)?))
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
