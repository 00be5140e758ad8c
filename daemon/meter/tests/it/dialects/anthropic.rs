//! Anthropic.

use super::{check, check_events};
use crate::harness::{answer, call};

/// Sources: "Compaction" and "Advisor tool" of Anthropic's documentation, usage: the sums leave these turns out.
#[test]
fn turns_that_the_sums_leave_out_are_counted_apart() {
    let iterations = r#"[{"type":"compaction","input_tokens":180000,"cache_read_input_tokens":7,"output_tokens":3500},
        {"input_tokens":23000,"output_tokens":1000,"type":"message"},
        {"cache_creation_input_tokens":9,"input_tokens":20,"output_tokens":1,"type":"compaction"}]"#;
    let usage = format!(r#""usage":{{"input_tokens":23000,"output_tokens":1000,"iterations":{iterations}}}"#);
    let apart = "compaction_input_tokens=180020 compaction_cache_read_input_tokens=7 \
                 compaction_cache_creation_input_tokens=9 compaction_output_tokens=3501";
    let expected = format!("in=23000 out=1000 {apart}");
    check("api.anthropic.com", "/v1/messages", &format!("{{{usage}}}"), &expected);
    // Both events may have them: the later replaces the earlier.
    check_events(
        "api.anthropic.com",
        "/v1/messages",
        &[
            &format!(r#"{{"type":"message_start","message":{{{}}}}}"#, usage.replace('\n', "")),
            &format!(r#"{{"type":"message_delta",{}}}"#, usage.replace('\n', "")),
            r#"{"type":"message_stop"}"#,
        ],
        &expected,
    );
    let advised = r#"{"usage":{"input_tokens":2390,"output_tokens":121,"iterations":[{"type":"message","input_tokens":1128,"output_tokens":110},{"input_tokens":2518,"cache_read_input_tokens":5,"cache_creation_input_tokens":6,"model":"claude-x","output_tokens":22,"type":"advisor_message"},{"type":"fallback_message","model":"claude-y","input_tokens":1262,"output_tokens":11}]}}"#;
    check(
        "api.anthropic.com",
        "/v1/messages",
        advised,
        "in=2390 out=121 advisor_input_tokens=2518 advisor_cache_read_input_tokens=5 \
         advisor_cache_creation_input_tokens=6 advisor_output_tokens=22",
    );
}

#[test]
fn batches_and_their_tier() {
    check(
        "api.anthropic.com",
        "/v1/messages",
        r#"{"usage":{"input_tokens":1,"output_tokens":2,"service_tier":"batch"}}"#,
        "in=1 out=2 tier=batch",
    );
    let flag = |method: &str, target: &str, reply: &str| {
        let sent =
            format!("{method} {target} HTTP/1.1\r\nHost: api.anthropic.com\r\nContent-Length: 0\r\n\r\n");
        let outcome =
            call("api.anthropic.com", sent.as_bytes(), &answer(200, "", reply.as_bytes()), &[usize::MAX]);
        (outcome.one().batch, outcome.one().operation, outcome.one().usage.is_unknown())
    };
    let line = r#"{"result":{"type":"succeeded","message":{"usage":{"input_tokens":1,"output_tokens":2,"service_tier":"batch"}}}}"#;
    assert_eq!(
        flag("GET", "/v1/messages/batches/b/results", &format!("{line}\n{line}\n")),
        (true, "batch_results", true)
    );
    assert_eq!(
        flag("GET", "/v1/messages/batches/b", r#"{"usage":{"input_tokens":1}}"#),
        (true, "fetch_batch", true)
    );
    assert_eq!(flag("POST", "/v1/messages/batches", "{}"), (true, "create_batch", true));
    assert_eq!(flag("POST", "/v1/messages", r#"{"usage":{"service_tier":"batch"}}"#), (true, "chat", true));
    assert_eq!(
        flag("POST", "/v1/messages", r#"{"usage":{"input_tokens":1,"output_tokens":1}}"#),
        (false, "chat", false)
    );
}
