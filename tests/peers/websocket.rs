//! WebSocket: `websockets` on both sides, in the style of OpenAI's Realtime API and of Gemini Live, with and without
//! permessage-deflate, fragments and pings.

use std::process::Command;

use e2e::toolbox;
use serde_json::{Value, json};

use crate::answer::{agree, made, metered};
use crate::recorder::{Recorder, Server};
use crate::{available, runtime, script, serving};

/// A session with several turns, every one with counts of its own.
fn session(api: &str, model: &str, compression: Option<&str>, number: u64) -> Value {
    let turns: Vec<Value> = [1, 40, 2_000]
        .iter()
        .zip(number..)
        .map(|(words, number)| {
            json!({"input": number, "output": number / 2, "cached": number / 3, "audio": number / 5, "words": words})
        })
        .collect();
    json!({"api": api, "model": model, "compression": compression, "turns": turns})
}

#[test]
fn websockets_servers_are_metered_as_their_clients_count() {
    let test = "websockets_servers_are_metered_as_their_clients_count";
    let Some(python) = available(test, toolbox::peer_python()) else { return };
    let runtime = runtime();
    let (_running, port) = serving(Command::new(&python).arg(script("ws_peer.py")));
    for (api, host, model, style) in [
        ("realtime", "api.openai.com", "gpt-realtime", "openai_realtime"),
        ("live", "generativelanguage.googleapis.com", "models/gemini-live-2.5-flash", "gemini_live"),
    ] {
        let sessions = [session(api, model, None, 1_000), session(api, model, Some("deflate"), 2_000)];
        let recorder = runtime.block_on(Recorder::before(Server::Port(port("port"))));
        let mut client = Command::new(&python);
        client.arg(script("ws_peer.py")).arg("call").arg(format!("ws://127.0.0.1:{}", recorder.port));
        let answers = made(&mut client, &sessions);
        assert_eq!(answers.len(), 6, "{api}: a report for each turn");
        let recordings = recorder.recordings();
        let exchanges = metered(host, &recordings);
        for exchange in &exchanges {
            assert_eq!(exchange.dialect, Some(style));
            assert_eq!(exchange.streaming, Some(true), "{api}");
            assert_eq!(exchange.requested_model.as_deref(), Some(model), "{api}");
        }
        agree(api, &answers, &exchanges);
        // What is deflated is much shorter: both forms were spoken.
        let size = |at: usize| recordings[at].iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert!(size(1) * 2 < size(0), "{api}: {} bytes deflated, {} plain", size(1), size(0));
    }
}
