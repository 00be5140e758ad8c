//! What each key means, its default and its range. One function per table of the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use meter::attribution::confidence::Confidence;
use meter::attribution::{Condition, Field, OwnerConfig, OwnerIndex, OwnerRule, Pattern, TenantName};
use meter::directory::{Directory, UserPath, UserProvider};
use meter::time::UnixNanos;
use store::Retention;

use super::raw::{Problems, Section};
use super::{Capture, Config, Grant, Log, Role, Scope, Serve, Store, TapMode, Tenant};

pub(super) fn check(text: &str) -> Result<Config, Vec<String>> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(vec![format!("not valid TOML: {}", error.to_string().trim_end())]),
    };
    let mut problems = Problems::default();
    let mut root = Section::root(table);
    let default = Config::default();

    let capture = capture(root.section("capture", &mut problems), &default.capture, &mut problems);
    let providers = providers(root.sections("provider", &mut problems), &mut problems);
    let store = store(root.section("store", &mut problems), &default.store, &mut problems);
    let tenants = tenants(root.sections("tenant", &mut problems), store.retention, &mut problems);
    let mut owners = attribution(root.section("attribution", &mut problems), &mut problems);
    owners.tenants = tenants.iter().map(|tenant| tenant.name.clone()).collect();
    owners.rules = owner_rules(root.sections("owner", &mut problems), &owners.tenants, &mut problems);
    let serve = serve(root.section("serve", &mut problems), &default.serve, &mut problems);
    let log = log(root.section("log", &mut problems), &mut problems);
    root.finish(&mut problems);

    // What only the compilers of rules and directory know. Rules that were misread would be reported twice.
    if problems.0.is_empty() {
        if let Err(errors) = OwnerIndex::compile(&owners, 0, UnixNanos(0)) {
            errors.iter().for_each(|error| problems.add("owner", error));
        }
        if let Err(errors) = Directory::builtin().extend(&providers) {
            errors.iter().for_each(|error| problems.add("provider", error.to_string()));
        }
    }
    if problems.0.is_empty() {
        Ok(Config { capture, providers, tenants, owners, store, serve, log })
    } else {
        Err(problems.0)
    }
}

fn capture(mut section: Section, default: &Capture, problems: &mut Problems) -> Capture {
    const SCOPES: &[(&str, Scope)] =
        &[("on_demand", Scope::OnDemand), ("eager", Scope::Eager), ("off", Scope::Off)];
    const TAPS: &[(&str, TapMode)] =
        &[("on_demand", TapMode::OnDemand), ("always", TapMode::Always), ("off", TapMode::Off)];
    let scope = section.word("scope", default.scope, SCOPES, problems);
    let tap = section.word("tap", default.tap, TAPS, problems);
    let events_ring_mib = section.power_of_two("events_ring_mib", default.events_ring_mib, 1..=512, problems);
    let content_ring_mib =
        section.power_of_two("content_ring_mib", default.content_ring_mib, 1..=512, problems);
    let gateways = section.texts("loopback_gateways", problems);
    let path = section.at("loopback_gateways");
    let mut loopback_gateways = Vec::with_capacity(gateways.len());
    for text in gateways {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => loopback_gateways.push(address),
            Ok(_) => problems.add(&path, format!("{text:?} is not on loopback (127.0.0.0/8 or ::1)")),
            Err(_) => problems
                .add(&path, format!("{text:?} is not an address with a port, such as \"127.0.0.1:4000\"")),
        }
    }
    section.finish(problems);
    Capture { scope, tap, events_ring_mib, content_ring_mib, loopback_gateways }
}

fn providers(sections: Vec<Section>, problems: &mut Problems) -> Vec<UserProvider> {
    let mut providers = Vec::with_capacity(sections.len());
    for mut section in sections {
        let name = section.required("name", problems);
        let hosts = section.texts("hosts", problems);
        let dialect = section.text("dialect", problems);
        let mut paths = Vec::new();
        for mut one in section.sections("path", problems) {
            let path = one.required("path", problems);
            let operation = one.required("operation", problems);
            let dialect = one.text("dialect", problems);
            one.finish(problems);
            if let (Some(path), Some(operation)) = (path, operation) {
                paths.push(UserPath { path, operation, dialect });
            }
        }
        section.finish(problems);
        if let Some(name) = name {
            providers.push(UserProvider { name, hosts, dialect, paths });
        }
    }
    providers
}

fn tenants(sections: Vec<Section>, keeps: Retention, problems: &mut Problems) -> Vec<Tenant> {
    let mut tenants: Vec<Tenant> = Vec::with_capacity(sections.len());
    for mut section in sections {
        let path = section.at("name");
        let name = section.required("name", problems).and_then(|text| tenant_name(&path, &text, problems));
        let mut grants = Vec::new();
        for mut grant in section.sections("grant", problems) {
            const ROLES: &[(&str, Role)] = &[("reader", Role::Reader), ("operator", Role::Operator)];
            let path = grant.at("uids");
            let role = grant.word("role", Role::Reader, ROLES, problems);
            let uids = grant.ids("uids", problems);
            let gids = grant.ids("gids", problems);
            if uids.is_empty() && gids.is_empty() {
                problems.add(&path, "a grant must name at least one id in uids or gids");
            }
            grant.finish(problems);
            grants.push(Grant { role, uids, gids });
        }
        let mut kept = section.section("retention", problems);
        let retention = retention(&mut kept, &keeps, problems);
        kept.finish(problems);
        section.finish(problems);
        let Some(name) = name else { continue };
        if tenants.iter().any(|tenant| tenant.name == name) {
            problems.add(&path, format!("{:?} is named twice", name.as_str()));
            continue;
        }
        tenants.push(Tenant { name, grants, retention });
    }
    tenants
}

fn tenant_name(path: &str, text: &str, problems: &mut Problems) -> Option<TenantName> {
    if text == TenantName::UNASSIGNED {
        problems.add(path, format!("{text:?} is reserved for traffic that belongs to no tenant"));
        return None;
    }
    let name = TenantName::new(text);
    if name.is_none() {
        let rule = "must be 1 to 63 of a-z 0-9 - _ and begin with a letter or digit";
        problems.add(path, format!("{text:?} {rule}"));
    }
    name
}

fn attribution(mut section: Section, problems: &mut Problems) -> OwnerConfig {
    let default_seconds = OwnerIndex::MAX_STALENESS_NS / 1_000_000_000;
    let seconds = section.integer("max_staleness_seconds", default_seconds, 1..=86_400, problems);
    let path = section.at("confidence_cap");
    let cap = section.basis_points("confidence_cap", problems).and_then(|points| {
        let cap = u16::try_from(points).ok().and_then(Confidence::new);
        if cap.is_none() {
            problems.add(&path, "is above 0.95, the highest confidence that can be stated");
        }
        cap.map(Confidence::basis_points)
    });
    let trusted_labels = section.texts("trusted_labels", problems);
    section.finish(problems);
    OwnerConfig {
        tenants: Vec::new(),
        rules: Vec::new(),
        trusted_labels,
        max_staleness_ns: Some(seconds * 1_000_000_000),
        confidence_cap: cap.filter(|points| *points != Confidence::CAP.basis_points()),
    }
}

fn owner_rules(sections: Vec<Section>, tenants: &[TenantName], problems: &mut Problems) -> Vec<OwnerRule> {
    let mut rules = Vec::with_capacity(sections.len());
    for mut section in sections {
        let path = section.at("match");
        let conditions = conditions(section.section("match", problems), problems);
        if conditions.is_empty() {
            problems.add(&path, "must name at least one condition, such as match = { namespace = \"shop\" }");
        }
        let at = section.at("tenant");
        let tenant = section.text("tenant", problems).and_then(|text| tenant_name(&at, &text, problems));
        match &tenant {
            Some(name) if tenants.is_empty() && name.as_str() != TenantName::DEFAULT => {
                problems.add(&at, format!("{:?} has no [[tenant]] table", name.as_str()));
            }
            Some(name) if !tenants.is_empty() && !tenants.contains(name) => {
                problems.add(&at, format!("{:?} has no [[tenant]] table", name.as_str()));
            }
            None if tenants.len() > 1 => {
                problems.add(&at, "is required, because there are two or more tenants");
            }
            _ => {}
        }
        let mut text = |key| section.text(key, problems).map(Into::into);
        let (team, service) = (text("team"), text("service"));
        let (cost_centre, environment) = (text("cost_centre"), text("environment"));
        section.finish(problems);
        rules.push(OwnerRule { conditions, tenant, team, service, cost_centre, environment });
    }
    rules
}

fn conditions(mut section: Section, problems: &mut Problems) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for (key, field) in [
        ("namespace", Field::Namespace),
        ("unit", Field::Unit),
        ("user", Field::User),
        ("executable", Field::Executable),
        ("container", Field::Container),
        ("image", Field::Image),
        ("cgroup", Field::Cgroup),
        ("host", Field::Host),
    ] {
        let path = section.at(key);
        match section.text(key, problems) {
            Some(text) if text.is_empty() => problems.add(&path, "must not be empty"),
            Some(text) => conditions.push(Condition { field, pattern: Pattern::parse(&text) }),
            None => {}
        }
    }
    for (label, value) in section.map("labels", problems) {
        conditions.push(Condition { field: Field::Label(label.into()), pattern: Pattern::parse(&value) });
    }
    section.finish(problems);
    conditions
}

fn store(mut section: Section, default: &Store, problems: &mut Problems) -> Store {
    let cache = section.integer("cache_mib", default.cache_bytes >> 20, 1..=4_096, problems);
    let reserve = section.integer("reserve_mib", default.reserve_bytes >> 20, 1..=1_048_576, problems);
    let retention = retention(&mut section, &default.retention, problems);
    section.finish(problems);
    Store { cache_bytes: cache << 20, reserve_bytes: reserve << 20, retention }
}

fn retention(section: &mut Section, default: &Retention, problems: &mut Problems) -> Retention {
    const DAY: u64 = 86_400;
    let records = section.integer("records_days", default.records_age.as_secs() / DAY, 1..=3_650, problems);
    // Who keeps records longer than the sums' default means the sums too.
    let sums = (default.rollups_age.as_secs() / DAY).max(records);
    let rollups = section.integer("rollups_days", sums, 1..=3_650, problems);
    if rollups < records {
        let why = format!("{rollups} is less than records_days ({records}): sums are kept at least as long");
        problems.add(&section.at("rollups_days"), why);
    }
    let mib = section.integer("records_mib", default.records_bytes_max >> 20, 1..=1_048_576, problems);
    Retention {
        records_age: Duration::from_secs(records * DAY),
        rollups_age: Duration::from_secs(rollups * DAY),
        records_bytes_max: mib << 20,
    }
}

fn serve(mut section: Section, default: &Serve, problems: &mut Problems) -> Serve {
    let path = section.at("socket");
    let socket = section.text("socket", problems).map(PathBuf::from);
    if socket.as_ref().is_some_and(|socket| !socket.is_absolute()) {
        problems.add(&path, "must be an absolute path");
    }
    let group = section.text("group", problems).unwrap_or_else(|| default.group.clone());
    section.finish(problems);
    Serve { socket, group }
}

fn log(mut section: Section, problems: &mut Problems) -> Log {
    use tracing::Level;
    const LEVELS: &[(&str, Level)] = &[
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let level = section.word("level", Level::INFO, LEVELS, problems);
    let json = section.word("format", false, &[("text", false), ("json", true)], problems);
    section.finish(problems);
    Log { level, json }
}
