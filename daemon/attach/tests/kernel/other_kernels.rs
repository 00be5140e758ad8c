//! The same objects on older and newer kernels: a virtual machine each, in which the real process loads everything, is
//! asked what it holds, and opens a tap that sees a packet.
//!
//! Kernels and the machine come from the scripts of `../shared/lab/vm`; where they or QEMU are missing the test says so
//! and that is all.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Tests that need nothing but a kernel and this program.
const INSIDE: [&str; 2] =
    ["life::what_is_loaded_is_what_the_table_says", "tap::a_tap_counts_packets_until_it_is_closed"];

/// Kernels of Debian's releases, the oldest near our floor.
const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.3"];

#[test]
fn every_object_loads_on_other_kernels() {
    let scripts = root().join("../shared/lab/vm");
    let skip = |why: &str| eprintln!("SKIPPED every_object_loads_on_other_kernels: {why}");
    if !scripts.join("vm.py").exists() {
        return skip("there is no ../shared/lab/vm");
    }
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        return skip("qemu-system-x86_64 is not installed");
    }
    let lab = root().join("target/lab/kernels");
    std::fs::create_dir_all(&lab).expect("a folder for kernels");
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).env("LAB", &lab).output().expect("it starts");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.success(), text.concat())
    };
    let script = |name: &str| scripts.join(name).to_string_lossy().into_owned();
    let test = Bundle::new();
    for kernel in KERNELS {
        if !lab.join(format!("k/{kernel}.vmlinuz")).exists()
            && let (false, said) = run("bash", &[&script("getkernel.sh"), kernel])
        {
            skip(&format!("kernel {kernel} cannot be had: {}", last(&said)));
            continue;
        }
        let initrd = lab.join(format!("{kernel}.initrd")).to_string_lossy().into_owned();
        let programs = [test.attacher.as_str(), test.tests.as_str()];
        let (made, said) =
            run("bash", &[&[script("mkinitrd.sh").as_str(), kernel, &initrd], &programs[..]].concat());
        assert!(made, "{kernel}: {said}");
        let (good, said) = run("python3", &[&script("vm.py"), "run", kernel, &initrd, &test.tar]);
        let told = said.lines().filter(|line| line.contains("KERNEL-TEST") || line.contains("limit="));
        told.for_each(|line| eprintln!("kernel {kernel}: {line}"));
        assert!(good, "{kernel}:\n{}", said.lines().rev().take(60).collect::<Vec<_>>().join("\n"));
    }
}

/// The programs without their debug information, and what is run in the machine.
struct Bundle {
    attacher: String,
    tests: String,
    tar: String,
    _folder: tempfile::TempDir,
}

impl Bundle {
    fn new() -> Bundle {
        let folder = tempfile::tempdir().expect("a folder");
        let attacher = PathBuf::from(env!("CARGO_BIN_EXE_venturi-attach"));
        let tests = std::env::current_exe().expect("this program");
        let stripped = |from: &Path, name: &str| {
            let to = folder.path().join(name);
            let done = Command::new("strip").arg("-o").args([&to, from]).status();
            if !done.is_ok_and(|status| status.success()) {
                std::fs::copy(from, &to).expect("a copy");
            }
            to.to_string_lossy().into_owned()
        };
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).expect("a folder");
        let tests_inside = INSIDE.join(" ");
        let home = attacher.parent().expect("a folder").display();
        let script = format!(
            "set -e\nmkdir -p {home}\nln -s /bin/venturi-attach {}\nexport VENTURI_REQUIRE_KERNEL=1\n\
             for test in {tests_inside}; do\n\
             kernel-tests --exact --test-threads 1 --nocapture $test || exit 1\n\
             echo KERNEL-TEST $test passed on $(uname -r)\ndone\n",
            attacher.display()
        );
        std::fs::write(inside.join("run.sh"), script).expect("a script");
        let tar = folder.path().join("t.tar").to_string_lossy().into_owned();
        let packed = Command::new("tar").args(["-cf", &tar, "-C"]).arg(&inside).arg(".").status();
        assert!(packed.is_ok_and(|status| status.success()), "tar");
        Bundle {
            attacher: stripped(&attacher, "venturi-attach"),
            tests: stripped(&tests, "kernel-tests"),
            tar,
            _folder: folder,
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}
