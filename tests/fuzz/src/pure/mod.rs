//! Entry points of the meter, by what they attack.

mod catalogue;
mod connection;
mod framing;
mod pipeline;
mod values;
mod websocket;

use meter::pipeline::Direction;

/// A name, which is also that of its folder in the corpus, and what is attacked.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("h1", connection::h1),
    ("h2", connection::h2),
    ("hpack", framing::hpack),
    ("sse", framing::sse),
    ("json", values::json),
    ("body", framing::body),
    ("eventstream", framing::eventstream),
    ("grpc", framing::grpc),
    ("websocket", websocket::websocket),
    ("protobuf", values::protobuf),
    ("answer", pipeline::answer),
    ("pipeline", pipeline::pipeline),
    ("catalogue", catalogue::catalogue),
    ("cgroup", cgroup),
];

/// One step on a session: bits of the first byte say what, the second how much.
pub enum Step<'a> {
    Bytes(Direction, &'a [u8]),
    Gap(Direction, u64),
}

pub fn steps(mut data: &[u8]) -> impl Iterator<Item = Step<'_>> {
    std::iter::from_fn(move || {
        let [what, amount, rest @ ..] = data else { return None };
        let direction = if what & 1 == 0 { Direction::Sent } else { Direction::Received };
        if what & 2 != 0 {
            data = rest;
            return Some(Step::Gap(direction, u64::from(*amount)));
        }
        let len = (usize::from(*amount) + if what & 4 != 0 { 256 } else { 0 }).min(rest.len());
        let (bytes, later) = rest.split_at(len);
        data = later;
        Some(Step::Bytes(direction, bytes))
    })
}

/// `/proc/PID/cgroup` and paths of control groups, which whoever may make groups may name.
pub fn cgroup(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let of_file = meter::workload::cgroup::parse_proc_cgroup(&text);
    let of_path = meter::workload::cgroup::parse_path(&text);
    for identity in [of_file, of_path] {
        let short = |text: &Option<Box<str>>| text.as_ref().is_none_or(|text| text.len() <= data.len() * 3);
        assert!(short(&identity.container_id) && short(&identity.pod_uid) && short(&identity.unit));
    }
}
