//! Recorded exchanges that are not seen whole: what is said of them must be true or not there.
//!
//! Exchanges with one host follow each other on a connection. A hole lies somewhere in it, its end is missing, or it was
//! joined late; where, is different in every round and the same in every run. Each exchange that comes out must be one of
//! those that come out of the whole, as far as it says anything; and those of the whole what each says alone.

use std::fmt::Debug;

use meter::exchange::Exchange;
use meter::pipeline::Direction::{self, Sent};

use crate::drive::{self, Seen};
use e2e::corpus::Line;
use e2e::corpus::render::{self, Pieces, Random};

/// Exchanges on one connection.
const TOGETHER: usize = 3;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Connections that were damaged.
    pub(crate) connections: u64,
    /// Exchanges that were told of them.
    pub(crate) told: u64,
    /// Of these with usage.
    pub(crate) with_usage: u64,
    /// Of these untrue.
    pub(crate) untrue: u64,
}

/// How a connection was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A run of bytes of one direction is missing.
    Hole,
    /// Nothing is seen after some byte.
    Ended,
    /// Nothing is seen before some byte.
    Joined,
}

/// Damages what can be damaged, `rounds` times each.
pub(crate) fn run(lines: &[Line], rounds: u32, show: usize) -> Tally {
    let mut tally = Tally::default();
    let http = |line: &&Line| !matches!(line.protocol.as_str(), "websocket" | "grpc");
    let mut by_host: Vec<&Line> = lines.iter().filter(http).collect();
    by_host.sort_by_key(|line| line.host());
    let groups = by_host.chunk_by(|one, other| one.host() == other.host());
    for together in groups.flat_map(|group| group.chunks(TOGETHER)) {
        let mut pieces: Pieces = together.iter().flat_map(|line| whole(line, "h1")).collect();
        connection(together, "h1", &pieces, rounds, show, &mut tally);
        // As of a client that asks ahead.
        pieces.sort_by_key(|(direction, _)| *direction);
        connection(together, "h1-ahead", &pieces, rounds, show, &mut tally);
        let pieces = render::together_as_http2(together);
        connection(together, "h2-together", &pieces, rounds, show, &mut tally);
    }
    for line in lines {
        for rendering in ["h2", "ws", "grpc"] {
            let pieces = whole(line, rendering);
            if !pieces.is_empty() {
                connection(&[line], rendering, &pieces, rounds, show, &mut tally);
            }
        }
    }
    tally
}

/// The pieces of a rendering, none if the line has no such.
fn whole(line: &Line, rendering: &str) -> Pieces {
    render::rendering(line, rendering).unwrap_or_default()
}

fn connection(
    lines: &[&Line],
    rendering: &str,
    pieces: &Pieces,
    rounds: u32,
    show: usize,
    tally: &mut Tally,
) {
    let Some(first) = lines.first() else { return };
    let undamaged = |pieces: &Pieces| drive::damaged(first.host(), pieces, &vec![false; pieces.len()], false);
    let truths = undamaged(pieces);
    // What is on a connection together is what is there alone. What is fetched counts if it was asked for before.
    if lines.len() > 1 && lines.iter().all(|line| line.method != "GET") {
        let alone = lines.iter().flat_map(|line| undamaged(&whole(line, "h1")).exchanges).collect();
        let alone = Seen { exchanges: alone, lost: 0 };
        judge(lines, rendering, "together", &alone, &truths, show, tally);
        let missing = alone.exchanges.len().abs_diff(truths.exchanges.len());
        if missing > 0 {
            println!("{} {rendering}: {missing} exchanges more or less than alone", first.id);
            tally.untrue += missing as u64;
        }
    }
    for round in 0..rounds {
        let mut random = Random::new(&format!("{} {rendering} {round}", first.id));
        let mut cut = render::cut_all(&mut random, pieces);
        let damage = [Damage::Hole, Damage::Ended, Damage::Joined][random.below(3)];
        let at = random.below(cut.len());
        let seen = match damage {
            Damage::Hole => {
                let direction = cut.get(at).map_or(Sent, |(direction, _)| *direction);
                let most = [3, 40, 600, 9_000][random.below(4)];
                let mut left = 1 + random.below(most);
                let missing = |(place, (other, bytes)): (usize, &(Direction, Vec<u8>))| {
                    let missing = place >= at && *other == direction && left > 0;
                    left = left.saturating_sub(if missing { bytes.len() } else { 0 });
                    missing
                };
                let missing: Vec<bool> = cut.iter().enumerate().map(missing).collect();
                drive::damaged(first.host(), &cut, &missing, false)
            }
            Damage::Ended => {
                cut.truncate(at);
                drive::damaged(first.host(), &cut, &vec![false; cut.len()], false)
            }
            Damage::Joined => {
                cut.drain(..at);
                drive::damaged(first.host(), &cut, &vec![false; cut.len()], true)
            }
        };
        tally.connections += 1;
        judge(lines, rendering, &format!("{damage:?}, round {round}"), &truths, &seen, show, tally);
    }
}

fn judge(
    lines: &[&Line],
    rendering: &str,
    how: &str,
    truths: &Seen,
    seen: &Seen,
    show: usize,
    tally: &mut Tally,
) {
    for exchange in &seen.exchanges {
        tally.told += 1;
        tally.with_usage += u64::from(!exchange.usage.is_unknown());
        let untrue = truths.exchanges.iter().map(|truth| untruths(lines, exchange, truth));
        let untrue: Vec<Vec<String>> = untrue.collect();
        if untrue.iter().any(Vec::is_empty) {
            continue;
        }
        tally.untrue += 1;
        if tally.untrue <= show as u64 {
            let nearest = untrue.iter().min_by_key(|untrue| untrue.len());
            let ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
            println!("{} {rendering} {how}", ids.join("+"));
            let why = exchange.reason.map_or("no reason", |reason| reason.as_str());
            println!(
                "    {why}: {}",
                nearest.map_or("nothing was there".to_owned(), |untrue| untrue.join("; "))
            );
        }
    }
}

/// What an exchange says that the true one does not.
fn untruths(lines: &[&Line], seen: &Exchange, truth: &Exchange) -> Vec<String> {
    let mut untrue = Vec::new();
    fn check<T: Debug + PartialEq>(untrue: &mut Vec<String>, what: &str, seen: Option<T>, truth: Option<T>) {
        if seen.is_some() && seen != truth {
            untrue.push(format!("{what} {seen:?}, in truth {truth:?}"));
        }
    }
    for (class, count) in drive::usage(seen) {
        check(&mut untrue, &class, Some(&count), drive::usage(truth).get(&class));
    }
    check(&mut untrue, "model", seen.model.as_ref(), truth.model.as_ref());
    // A body that was not seen may name it otherwise than the path does.
    let in_path = |model: &str| lines.iter().any(|line| line.url.contains(model));
    let requested = seen.requested_model.as_deref().filter(|model| !in_path(model));
    check(&mut untrue, "requested model", requested, truth.requested_model.as_deref());
    check(&mut untrue, "status", seen.status, truth.status);
    check(&mut untrue, "tier", seen.service_tier.as_ref(), truth.service_tier.as_ref());
    // What broke off moved less; a session that did so is not shared out among answers and transcripts.
    let session = truth.status == Some(101) && seen.reason.is_some();
    let moved = |seen: Option<u64>, truth: Option<u64>| if session || seen <= truth { None } else { seen };
    check(&mut untrue, "request bytes", moved(seen.request_bytes, truth.request_bytes), truth.request_bytes);
    check(
        &mut untrue,
        "response bytes",
        moved(seen.response_bytes, truth.response_bytes),
        truth.response_bytes,
    );
    check(&mut untrue, "cost", seen.reported_cost, truth.reported_cost);
    for tool in &seen.tools {
        let same = truth.tools.iter().find(|other| other.name == tool.name);
        check(&mut untrue, "tool", Some(&tool.name), same.map(|other| &other.name));
        check(&mut untrue, "calls", tool.calls, same.and_then(|other| other.calls));
    }
    untrue
}
