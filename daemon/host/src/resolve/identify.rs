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
/// Bytes of answers that are held together: those of some hundred containers, or a few of the largest files.
const ANSWERS_BYTES_MAX: usize = 8 << 20;

/// Files that the attacher opens for us, without waiting: a first question is put off, and its answer is there when the
/// process is asked about again - at its session, its flow. The planner's thread races with applications and must not
/// wait for anyone.
pub struct AttacherFiles {
    attacher: Attacher,
    questions: Arc<Mutex<Questions>>,
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

impl Answer {
    fn len(&self) -> usize {
        match self {
            Answer::Content(bytes) => bytes.len(),
            Answer::Awaited | Answer::Absent => 0,
        }
    }

    fn holds(&self) -> Duration {
        if matches!(self, Answer::Awaited) { PATIENCE } else { HOLDS }
    }
}

/// What was asked lately. In number and in bytes of its answers it is bounded: what no longer holds goes first, then the
/// oldest, and is asked again when it is needed.
#[derive(Debug, Default)]
struct Questions {
    asked: HashMap<Question, (Instant, Answer)>,
    bytes: usize,
}

impl Questions {
    fn get(&self, question: &Question, now: Instant) -> Option<Answer> {
        let (at, answer) = self.asked.get(question)?;
        (now.duration_since(*at) < answer.holds()).then(|| answer.clone())
    }

    fn insert(&mut self, question: Question, answer: Answer, now: Instant) {
        self.remove(&question);
        let fits = |questions: &Questions| {
            questions.asked.len() < QUESTIONS_MAX && questions.bytes + answer.len() <= ANSWERS_BYTES_MAX
        };
        if !fits(self) {
            let over = |(at, answer): &(Instant, Answer)| now.duration_since(*at) >= answer.holds();
            self.asked.retain(|_, asked| !over(asked));
            self.bytes = self.asked.values().map(|(_, answer)| answer.len()).sum();
        }
        while !fits(self)
            && let Some(oldest) = self.asked.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| key.clone())
        {
            self.remove(&oldest);
        }
        self.bytes += answer.len();
        self.asked.insert(question, (now, answer));
    }

    fn remove(&mut self, question: &Question) {
        if let Some((_, answer)) = self.asked.remove(question) {
            self.bytes -= answer.len();
        }
    }
}

impl AttacherFiles {
    /// Files opened by `attacher`.
    pub fn new(attacher: Attacher) -> AttacherFiles {
        AttacherFiles { attacher, questions: Arc::default(), deferred: AtomicU64::new(0) }
    }

    fn answer(&self, question: Question, request: Request) -> io::Result<Box<dyn Read>> {
        let known = {
            let (mut questions, now) = (lock(&self.questions), Instant::now());
            let known = questions.get(&question, now);
            if known.is_none() {
                questions.insert(question.clone(), Answer::Awaited, now);
            }
            known
        };
        match known {
            Some(Answer::Content(bytes)) => return Ok(Box::new(Cursor::new(bytes))),
            Some(Answer::Absent) => return Err(io::ErrorKind::NotFound.into()),
            Some(Answer::Awaited) => {}
            None => {
                let questions = Arc::clone(&self.questions);
                self.attacher.ask(request, move |answer| {
                    let descriptor = answer.ok().and_then(|answer| answer.descriptor);
                    let content = descriptor.and_then(|descriptor| {
                        let mut bytes = Vec::new();
                        File::from(descriptor).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
                        Some(Answer::Content(bytes.into()))
                    });
                    lock(&questions).insert(question, content.unwrap_or(Answer::Absent), Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_in_number_and_in_bytes_and_the_oldest_go_first() {
        let check = |count: u64, bytes: usize, expected: usize| {
            let mut questions = Questions::default();
            let began = Instant::now();
            let question = |pid: u64| Question::Maps(ProcessKey { pid: 1, start_ticks: pid });
            for pid in 0..count {
                let answer = Answer::Content(vec![0; bytes].into());
                questions.insert(question(pid), answer, began + Duration::from_nanos(pid));
            }
            assert_eq!(questions.asked.len(), expected);
            assert_eq!(questions.bytes, expected * bytes);
            let newest = began + Duration::from_nanos(count);
            assert!(questions.get(&question(count - 1), newest).is_some(), "what was asked last is there");
            assert_eq!(questions.get(&question(0), newest).is_some(), expected as u64 == count);
            // What no longer holds makes room for all.
            questions.insert(
                question(count),
                Answer::Content(vec![0; ANSWERS_BYTES_MAX].into()),
                began + HOLDS * 2,
            );
            assert_eq!((questions.asked.len(), questions.bytes), (1, ANSWERS_BYTES_MAX));
        };
        check(10, 100, 10);
        check(QUESTIONS_MAX as u64, 1, QUESTIONS_MAX);
        check(2 * QUESTIONS_MAX as u64, 1, QUESTIONS_MAX);
        check(20, 1 << 20, 8);
    }
}
