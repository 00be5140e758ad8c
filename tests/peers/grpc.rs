//! gRPC: Python's `grpcio` and Node's `grpc-js`, with the methods and messages of the Gemini API and Vertex AI, unary
//! and streamed, plain and with gzip, answered and refused.

use std::process::Command;

use e2e::toolbox;
use serde_json::{Value, json};

use crate::answer::{agree, made, metered};
use crate::recorder::{Recorder, Server};
use crate::{available, runtime, script, serving};

const MODEL: &str = "gemini-2.5-flash";

/// Every shape, with counts of its own.
fn calls() -> Vec<Value> {
    let mut calls = Vec::new();
    for coding in [None, Some("gzip")] {
        for (stream, words) in [(false, 3), (true, 3), (false, 5_000), (true, 300)] {
            for error in [None, Some("RESOURCE_EXHAUSTED")] {
                let number = 1_000 + calls.len();
                calls.push(json!({"model": MODEL, "stream": stream, "words": words, "coding": coding,
                    "error": error, "input": number, "output": number + 7, "cached": number / 3}));
            }
        }
    }
    calls
}

#[test]
fn grpc_servers_are_metered_as_their_clients_count() {
    let test = "grpc_servers_are_metered_as_their_clients_count";
    let Some(python) = available(test, toolbox::peer_python()) else { return };
    let Some((node, modules)) = available(test, toolbox::grpc_node()) else { return };
    let in_python = || {
        let mut command = Command::new(&python);
        command.arg(script("grpc_peer.py"));
        command
    };
    let in_node = || {
        let mut command = Command::new(&node);
        command.arg(script("grpc_peer.mjs")).env("LAB_NODE_MODULES", &modules);
        command
    };
    let runtime = runtime();
    let (_python, python_port) = serving(&mut in_python());
    let (_node, node_port) = serving(&mut in_node());
    let (gemini, vertex) = ("generativelanguage.googleapis.com", "us-central1-aiplatform.googleapis.com");
    for (what, host, mut client, words, port) in [
        ("python asks python", gemini, in_python(), vec!["call"], &python_port),
        ("python asks node", gemini, in_python(), vec!["call"], &node_port),
        ("node asks python", gemini, in_node(), vec!["call", "gemini"], &python_port),
        ("node asks node", vertex, in_node(), vec!["call", "vertex"], &node_port),
    ] {
        let recorder = runtime.block_on(Recorder::before(Server::Port(port("port"))));
        let calls = calls();
        let answers = made(client.args(words).arg(format!("127.0.0.1:{}", recorder.port)), &calls);
        assert_eq!(answers.len(), calls.len(), "{what}");
        let exchanges = metered(host, &recorder.recordings());
        for exchange in &exchanges {
            assert_eq!(exchange.operation, "generate_content", "{what}");
            assert_eq!(exchange.requested_model.as_deref(), Some(MODEL), "{what}: {exchange:?}");
            let call = calls.iter().find(|call| call["input"].as_u64() == exchange.usage.input);
            assert!(call.is_some() || exchange.error.is_some(), "{what}: nobody made {exchange:?}");
            if let Some(call) = call {
                assert_eq!(exchange.streaming, call["stream"].as_bool(), "{what}: {call}");
            }
        }
        agree(what, &answers, &exchanges);
    }
}
