//! The resolver as the planner uses it: files are opened by the attacher.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use abi::attacher::{Request, StateFile};
use abi::event::Task;
use meter::workload::{ProcessKey, Workload};

use super::{Resolver, StateFiles};
use crate::capture::attacher_client::{Attacher, open_maps, open_state};
use crate::capture::shell::Identify;

/// How long what came of a question holds here; the resolver remembers it longer.
const HOLDS: Duration = Duration::from_secs(2);
/// How long an answer is waited for before the question is put again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions remembered.
const QUESTIONS_MAX: usize = 512;
/// Bytes of a file that are read.
const FILE_BYTES_MAX: u64 = (1 << 20) + 1;

/// Files that the attacher opens for us, without waiting: a first question is put off, and its answer is there when the
/// process is asked about again - at its session, its flow. The planner's thread races with applications and must not
/// wait for anyone.
pub struct AttacherFiles {
    attacher: Attacher,
    questions: Arc<Mutex<HashMap<Question, (Instant, Answer)>>>,
    deferred: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Question {
    State(u32, Box<str>),
    Maps(ProcessKey),
}

#[derive(Clone, Debug)]
enum Answer {
    Awaited,
    Content(Arc<[u8]>),
    Absent,
}

impl AttacherFiles {
    /// Files opened by `attacher`.
    pub fn new(attacher: Attacher) -> AttacherFiles {
        AttacherFiles { attacher, questions: Arc::default(), deferred: AtomicU64::new(0) }
    }

    fn answer(&self, question: Question, request: Request) -> io::Result<Box<dyn Read>> {
        let known = {
            let mut questions = lock(&self.questions);
            let known = questions.get(&question).cloned().filter(|(at, answer)| {
                at.elapsed() < if matches!(answer, Answer::Awaited) { PATIENCE } else { HOLDS }
            });
            if known.is_none() {
                if questions.len() >= QUESTIONS_MAX {
                    questions.clear();
                }
                questions.insert(question.clone(), (Instant::now(), Answer::Awaited));
            }
            known
        };
        match known {
            Some((_, Answer::Content(bytes))) => return Ok(Box::new(Cursor::new(bytes))),
            Some((_, Answer::Absent)) => return Err(io::ErrorKind::NotFound.into()),
            Some((_, Answer::Awaited)) => {}
            None => {
                let questions = Arc::clone(&self.questions);
                self.attacher.ask(request, move |answer| {
                    let descriptor = answer.ok().and_then(|answer| answer.descriptor);
                    let content = descriptor.and_then(|descriptor| {
                        let mut bytes = Vec::new();
                        File::from(descriptor).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
                        Some(Answer::Content(bytes.into()))
                    });
                    lock(&questions).insert(question, (Instant::now(), content.unwrap_or(Answer::Absent)));
                });
            }
        }
        self.deferred.fetch_add(1, Ordering::Relaxed);
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl StateFiles for AttacherFiles {
    fn open(&self, kind: StateFile, id: &str) -> io::Result<Box<dyn Read>> {
        let request = open_state(kind, id).ok_or(io::ErrorKind::InvalidInput)?;
        self.answer(Question::State(kind.wire(), id.into()), request)
    }

    fn open_maps(&self, process: ProcessKey) -> io::Result<Box<dyn Read>> {
        self.answer(Question::Maps(process), open_maps(process))
    }

    fn deferred(&self) -> u64 {
        self.deferred.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
