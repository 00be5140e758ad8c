//! What is told of an error.

use super::CHAT;
use crate::harness::{answer, call};

/// The type and the code of an error, wherever they stand; without an error such words are nothing.
#[test]
fn errors_are_classified() {
    let check = |host: &str, target: &str, status: u16, fields: &str, reply: &str, expected: &str| {
        let sent = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{{}}");
        let outcome = call(host, sent.as_bytes(), &answer(status, fields, reply.as_bytes()), &[7]);
        let seen = match &outcome.one().error {
            Some(error) => {
                [error.class.as_deref(), error.code.as_deref()].map(|word| word.unwrap_or("-")).join(" ")
            }
            None => "none".to_owned(),
        };
        assert_eq!(seen, expected, "{host}: {reply}");
        assert!(!outcome.printed.contains("prose"), "a message shows itself: {}", outcome.printed);
    };
    let mistral = r#"{"object":"error","message":"prose","type":"invalid_model","param":null,"code":"1500"}"#;
    check("api.mistral.ai", CHAT, 400, "", mistral, "invalid_model 1500");
    check("api.mistral.ai", CHAT, 200, "", r#"{"type":"x","code":1}"#, "none");
    check("api.mistral.ai", CHAT, 422, "", r#"{"detail":[{"msg":"prose","type":"missing"}]}"#, "- -");
    check(
        "api.x.ai",
        CHAT,
        400,
        "",
        r#"{"code":"invalid-argument","error":"some prose"}"#,
        "- invalid-argument",
    );
    check("api.x.ai", CHAT, 400, "", r#"{"code":"Client wrote prose","error":"some prose"}"#, "- -");
    let openai = r#"{"error":{"message":"prose","type":"server_error","code":null}}"#;
    check("api.openai.com", CHAT, 500, "", openai, "server_error -");
    let bedrock = "bedrock-runtime.us-east-1.amazonaws.com";
    let coral = "x-amzn-errortype: ValidationException:http://internal.amazon.com/coral/com.amazon.coral.validate/\r\n";
    check(bedrock, "/model/m/converse", 400, coral, r#"{"message":"prose"}"#, "ValidationException -");
    check(bedrock, "/model/m/converse", 503, "", r#"{"message":"prose"}"#, "- -");
}
