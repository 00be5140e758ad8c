//! Whose a host is, and what users may add.

use super::{Directory, DirectoryError, UserProvider};

#[test]
fn names_find_their_provider() {
    let directory = Directory::builtin();
    let check = |host: &str, expected: Option<&str>| {
        assert_eq!(directory.lookup(host).map(|provider| &*provider.name), expected, "{host:?}");
    };
    check("api.openai.com", Some("openai"));
    check("API.OpenAI.com.", Some("openai"));
    check("api.openai.com:443", Some("openai"));
    check("eu.api.openai.com", Some("openai"));
    check("openai.com", None);
    check("platform.openai.com", None);
    check("evil-api.openai.com.example", None);
    check("notapi.openai.com", None);
    check("res.openai.azure.com", Some("azure"));
    check("openai.azure.com", None);
    check("models.azure-api.net", Some("azure"));
    check("a.b.openai.azure.com", Some("azure"));
    check("bedrock-runtime.us-east-1.amazonaws.com", Some("bedrock"));
    check("bedrock-runtime.zz-new-9.amazonaws.com", Some("bedrock"));
    check("vpce-0a1b.bedrock-runtime.eu-west-1.vpce.amazonaws.com", Some("bedrock"));
    check("s3.us-east-1.amazonaws.com", None);
    check("bedrock-runtime.us-east-1.evil.amazonaws.com", None);
    check("us-central1-aiplatform.googleapis.com", Some("vertex"));
    check("storage.googleapis.com", None);
    check("aws-external-anthropic.us-west-2.api.aws", Some("anthropic"));
    check("localhost:11434", Some("ollama"));
    check("[::1]:11434", Some("ollama"));
    check("localhost", None);
    check("localhost:8080", None);
    for odd in
        ["", ".", "..", ":", "[", "[::1", "a:b", "a:99999", "\u{ff}.api.openai.com:x", "api.openai.com:"]
    {
        check(odd, None);
    }
}

#[test]
fn no_host_belongs_to_two_providers() {
    let directory = Directory::builtin();
    for (host, entries) in &directory.exact {
        let all_one = entries.iter().all(|entry| entry.provider == entries[0].provider);
        assert!(all_one, "{host} is claimed twice");
        let mut rest = &**host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(domain) = directory.domains.get(parent) {
                assert_eq!(
                    domain.provider, entries[0].provider,
                    "{host} lies under *.{parent} of another provider"
                );
            }
            rest = parent;
        }
    }
    let mut keys: Vec<_> = directory.kernel_keys().collect();
    keys.sort();
    for pair in keys.windows(2) {
        assert!(pair[0].0 != pair[1].0, "two providers share the kernel key {:?}", pair[0]);
        let covers = pair[0].0.last() == Some(&b'.') && pair[1].0.starts_with(&pair[0].0);
        assert!(!covers || pair[0].1 == pair[1].1, "{pair:?} overlap");
    }
    let mut names: Vec<_> =
        directory.providers.iter().map(|provider| (&provider.name, provider.mixed)).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a provider is listed twice");
}

#[test]
fn kernel_keys_are_reversed_and_leave_mixed_hosts_out() {
    let mut directory = Directory::builtin();
    let user = UserProvider {
        name: "gw".into(),
        hosts: vec!["*.gw.corp".into(), "10.0.0.5:80".into()],
        ..UserProvider::default()
    };
    directory.extend(&[user]).unwrap();
    let has = |key: &[u8]| directory.kernel_keys().any(|(found, _)| found == key);
    assert!(has(b"moc.ianepo.ipa\0"));
    assert!(has(b"moc.ianepo.ipa."));
    assert!(has(b"moc.swanozama.1-tsae-su.emitnur-kcordeb\0"));
    assert!(has(b"proc.wg."));
    assert!(!has(b"moc.gnitupmocekalfwons."));
    assert!(has(b"moc.eruza.ianepo."));
    assert!(!has(b"ten.ipa-eruza."));
    assert!(!has(b"tsohlacol\0"));
    for (key, index) in directory.kernel_keys() {
        assert!(key.len() <= 128 && matches!(key.last(), Some(0 | b'.')));
        assert!(directory.provider(index).is_some());
        assert!(
            key.iter().filter(|byte| **byte == b'.').count() >= 1,
            "a key must not match a whole top-level domain"
        );
    }
}

#[test]
fn users_add_hosts_and_hear_every_mistake() {
    let mut directory = Directory::builtin();
    let entry = |name: &str, hosts: &[&str]| UserProvider {
        name: name.into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        dialect: Some("openai_chat".into()),
        paths: Vec::new(),
    };
    directory
        .extend(&[
            entry("self-hosted", &["LLM.corp:8000", "10.0.0.5:8000", "[fd00::1]:8000"]),
            entry("openai", &["proxy.corp", "api.openai.com"]),
            entry("our-azure", &["team.openai.azure.com"]),
        ])
        .unwrap();
    let name = |host: &str| directory.lookup(host).map(|provider| provider.name.to_string());
    assert_eq!(name("llm.corp:8000").as_deref(), Some("self-hosted"));
    assert_eq!(name("llm.corp").as_deref(), Some("self-hosted"));
    assert_eq!(name("llm.corp:9").as_deref(), None);
    assert_eq!(name("[fd00::1]:8000").as_deref(), Some("self-hosted"));
    assert_eq!(name("proxy.corp").as_deref(), Some("openai"));
    assert_eq!(name("team.openai.azure.com").as_deref(), Some("our-azure"));
    assert!(directory.lookup("api.openai.com").is_some_and(|provider| provider.configured));

    let before = directory.clone();
    let wrong = [
        entry("Bad Name", &["x.corp"]),
        entry("none", &[]),
        entry("urls", &["https://x.corp/v1", "x.*.corp", "*.corp", "a b", "x.corp:http", "{aws}.corp", ""]),
        entry("thief", &["api.anthropic.com"]),
    ];
    let problems = directory.extend(&wrong).unwrap_err();
    assert_eq!(problems.len(), 10, "{problems:#?}");
    assert!(matches!(&problems[9], DirectoryError::Claimed { other, .. } if other == "anthropic"));
    assert_eq!(directory.providers().len(), before.providers().len(), "nothing is added on an error");
    assert!(directory.lookup("x.corp").is_none());
}

#[test]
fn hosts_name_regions() {
    let check =
        |host: &str, expected: Option<&str>| assert_eq!(Directory::region_of(host), expected, "{host}");
    check("bedrock-runtime.us-east-1.amazonaws.com", Some("us-east-1"));
    check("europe-west4-aiplatform.googleapis.com", Some("europe-west4"));
    check("aiplatform.googleapis.com", None);
    check("api.openai.com", None);
}
