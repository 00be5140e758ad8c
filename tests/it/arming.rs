//! Who is armed and when: a library that is rewritten under its processes, and `capture.scope = "eager"`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use e2e::clients::World;
use e2e::daemon::{Daemon, PATIENCE, pause};
use e2e::lab::Lab;
use e2e::needs_kernel;
use e2e::toolbox::Toolbox;
use serde_json::Value;

/// A client that waits for a line before each call: a number for a call to the provider, on the connection it has or,
/// after `anew`, on a new one; `other` for one elsewhere.
const SCRIPT: &str = r#"
import sys, httpx, openai
connect = lambda: openai.OpenAI(api_key="sk-lab-arming", max_retries=0)
client = connect()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "other":
        httpx.post("https://www.example.org/", content="lab input=1 output=1 cached=0 reasoning=0")
    else:
        verb, _, number = line.rpartition(" ")
        client = connect() if verb == "anew" else client
        order = f"lab input={int(number)} output=5 cached=0 reasoning=0"
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": order}])
    print("done", flush=True)
"#;

struct Caller {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts a client, with libraries from a folder before those of the system.
    fn start(world: &World, dir: &Path, libraries: Option<&Path>) -> Caller {
        let python = Toolbox::get().python.as_ref().expect("Python with the SDKs");
        let mut command = world.command(dir, python).expect("a command");
        command.args(["-c", SCRIPT]).envs(libraries.map(|folder| ("LD_LIBRARY_PATH", folder)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut caller = Caller { child, input, output };
        assert_eq!(caller.line(), "ready");
        caller
    }

    fn call(&mut self, what: &str) {
        writeln!(self.input, "{what}").expect("an order");
        assert_eq!(self.line(), "done", "the call of an application failed");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        line.trim().to_owned()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_library_that_is_rewritten_in_place_is_read_and_armed_again() {
    needs_kernel!("a_library_that_is_rewritten_in_place_is_read_and_armed_again");
    let lab = Lab::new(&["http/1.1"]);
    let libraries = lab.path().join("libraries");
    let library = copy_of_libssl(&lab, &libraries);
    let daemon = Daemon::start(lab.path(), "").expect("an armed daemon");
    let mut old = Caller::start(&lab.world, lab.path(), Some(&libraries));
    old.call("900001");
    wait_for(&daemon, "the client is armed", |figures| figures["armed_processes"].as_u64() >= Some(1));
    old.call("900002");
    let armed = figures(&daemon)["armed_processes"].as_u64();

    let mut file = std::fs::OpenOptions::new().append(true).open(library).expect("the library");
    file.write_all(b"the same inode with other content").expect("rewritten");
    drop(file);
    wait_for(&daemon, "the write is noticed", |figures| figures["files_rewritten"] == 1);
    // While it is let go, and to a process that maps what it is now, nothing happens.
    let mut new = Caller::start(&lab.world, lab.path(), Some(&libraries));
    old.call("900003");
    wait_for(&daemon, "the client is armed again", |figures| figures["armed_processes"].as_u64() > armed);
    old.call("900004");
    new.call("900005");
    new.call("900006");
    old.call("anew 900007");

    let numbers = |records: &[Value], number: u64| {
        records.iter().filter(|record| record["usage"]["input_tokens"] == number).count()
    };
    drop((old, new));
    // The session that was open through it is given up; a session that began afterwards is metered exactly, once.
    let records =
        daemon.calls_until(|records| numbers(records, 900_006) > 0 && numbers(records, 900_007) > 0);
    let records = records.expect("records of the last call of each");
    for number in 900_001..=900_007 {
        assert!(numbers(&records, number) <= 1, "{number}: {records:?}");
    }
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

#[test]
fn an_eager_node_sees_the_first_call_and_nothing_of_other_sessions() {
    needs_kernel!("an_eager_node_sees_the_first_call_and_nothing_of_other_sessions");
    let lab = Lab::new(&["http/1.1"]);
    let mut old = Caller::start(&lab.world, lab.path(), None);
    let daemon = Daemon::start(lab.path(), "[capture]\nscope = \"eager\"").expect("an armed daemon");
    // Armed at the start of the daemon: its first call, on loopback, is not missed.
    old.call("910001");
    old.call("other");
    // Armed when it was made, long before it calls.
    let mut new = Caller::start(&lab.world, lab.path(), None);
    new.call("910002");
    let found = |records: &[Value]| {
        let of = |number: u64| records.iter().any(|record| record["usage"]["input_tokens"] == number);
        of(910_001) && of(910_002)
    };
    let records = daemon.calls_until(found).expect("both calls");
    assert_eq!(records.len(), 2, "{records:?}");
    let figures = figures(&daemon);
    assert!(figures["kernel_not_ai_bytes_seen"].as_u64() > Some(0), "{figures}");
    assert_eq!(figures["kernel_not_ai_bytes_emitted"], 0, "{figures}");
    assert_eq!(daemon.stop().expect("an exit code"), 0);
}

/// Copies the library that Python's `ssl` loads into a folder.
fn copy_of_libssl(lab: &Lab, folder: &Path) -> PathBuf {
    let caller = Caller::start(&lab.world, lab.path(), None);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", caller.child.id())).expect("its maps");
    let line = maps.lines().find(|line| line.contains("/libssl")).expect("a TLS library");
    let original = Path::new(line.split_ascii_whitespace().nth(5).expect("a path"));
    std::fs::create_dir_all(folder).expect("a folder");
    let copy = folder.join(original.file_name().expect("a name"));
    std::fs::copy(original, &copy).expect("a copy");
    copy
}

fn wait_for(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) {
    let started = Instant::now();
    loop {
        let figures = figures(daemon);
        if wanted(&figures) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "not {what}: {figures}\n{}", daemon.log());
        pause();
    }
}

/// Every counter of the node by its name.
fn figures(daemon: &Daemon) -> Value {
    let doctor = daemon.json_lines(&["doctor", "--json"]).expect("a doctor's report").remove(0);
    let counters = doctor["counters"].as_array().expect("counters");
    counters
        .iter()
        .map(|entry| (entry["name"].as_str().unwrap_or_default().to_owned(), entry["value"].clone()))
        .collect()
}
