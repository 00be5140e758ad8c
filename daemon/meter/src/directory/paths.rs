//! Which path of a request is which operation, and which dialect its answer speaks.
//!
//! A *pattern* is written like a path: `**` stands for any number of segments, `*` for one, `{model}` for one that names
//! the model, `{model}/{model}` for several that do together (`owner/name`), `{model}:verb` and `*:verb` for one that ends so. Of several patterns that match, the more specific one
//! counts: one for named providers before one for all, one for certain models before one for all, then the one with more
//! segments written out. Two that are equally specific and match the same path are refused, so that the order in which
//! they are written never matters.

use std::collections::HashMap;

use serde::Deserialize;

use crate::llm::dialect::{self, Dialect};

/// Every operation, by the name that records bear: OpenTelemetry's word where there is one, else the API's.
pub const OPERATIONS: [&str; 38] = [
    "chat",
    "text_completion",
    "generate_content",
    "embeddings",
    "rerank",
    "moderation",
    "image_generation",
    "video_generation",
    "transcription",
    "translation",
    "speech",
    "realtime",
    "ocr",
    "decision",
    "predict",
    "task",
    "invoke_agent",
    "retrieval",
    "guardrail",
    "count_tokens",
    "fetch_response",
    "fetch_prediction",
    "create_batch",
    "fetch_batch",
    "batch_results",
    "cancel",
    "files",
    "fine_tuning",
    "vector_stores",
    "models",
    "conversations",
    "assistants",
    "realtime_session",
    "cached_contents",
    "mcp",
    "mcp_listen",
    "mcp_end",
    "other",
];

/// Segments of a path that are looked at; of a longer one, the last.
const SEGMENTS_MAX: usize = 32;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// One of [`OPERATIONS`], or `unknown`.
    pub name: &'static str,
    /// Dialect of its answer; `None` if none is built.
    pub dialect: Option<&'static Dialect>,
    /// Whether it uses tokens that are to be counted.
    pub inference: bool,
    /// Model or deployment in the path, percent-encoded as it came.
    pub model: Option<&'a str>,
    /// Whether the path alone says that this is an AI provider's API, whoever the host is.
    pub telling: bool,
    /// Whether it is about a batch.
    pub batch: bool,
    /// No pattern matches, but the user says that the host serves models: the request's body tells.
    pub by_shape: bool,
}

impl Operation<'_> {
    /// A request that nothing is known of.
    pub const OTHER: Operation<'static> = Operation {
        name: "other",
        dialect: None,
        inference: false,
        model: None,
        telling: false,
        batch: false,
        by_shape: false,
    };
}

/// An entry as the directory's file and users write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperation {
    pub(super) name: String,
    pub(super) paths: Vec<String>,
    /// Without any: POST.
    #[serde(default)]
    pub(super) methods: Vec<String>,
    pub(super) dialect: Option<String>,
    /// For these providers only.
    #[serde(default)]
    pub(super) providers: Vec<String>,
    /// For models with this in their name only.
    pub(super) model: Option<String>,
    #[serde(default = "yes")]
    pub(super) inference: bool,
    #[serde(default)]
    pub(super) telling: bool,
    #[serde(default)]
    pub(super) batch: bool,
}

fn yes() -> bool {
    true
}

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not a pattern.
    #[error("path {path:?}: {problem}")]
    BadPath {
        /// As written.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// No such operation.
    #[error("operation {name:?} is not known; known are: {known}", known = OPERATIONS.join(", "))]
    BadOperation {
        /// As written.
        name: String,
    },
    /// No such dialect.
    #[error("dialect {name:?} is not built; built are: {known}", known = dialect::names().join(", "))]
    BadDialect {
        /// As written.
        name: String,
    },
    /// Another entry for the same path.
    #[error("path {path:?} is as specific as {other:?} and matches the same requests")]
    Ambiguous {
        /// As written.
        path: String,
        /// Who has it.
        other: String,
    },
}

/// All patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
    /// Places in `routes` by what the last segment is, or ends with after a colon; the most specific first.
    by_end: HashMap<Box<str>, Vec<usize>>,
    /// The others.
    open: Vec<usize>,
    /// The segment after one of these names the model.
    model_after: Vec<Box<str>>,
}

#[derive(Clone, Debug)]
struct Route {
    text: Box<str>,
    pattern: Vec<Segment>,
    methods: Vec<Box<str>>,
    providers: Vec<Box<str>>,
    model: Option<Box<str>>,
    operation: Operation<'static>,
    rank: Rank,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// `*`, or `{model}` if true.
    One(bool),
    /// As written.
    Literal(Box<str>),
    /// `*:verb`, or `{model}:verb` if true.
    Verb(Box<str>, bool),
}

/// How specific a pattern is; the greater one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    of_provider: bool,
    of_model: bool,
    literals: usize,
    verbs: usize,
    ones: usize,
    bounded: bool,
    anchored: bool,
}

impl Routes {
    pub(super) fn new(model_after: Vec<String>) -> Routes {
        Routes { model_after: model_after.into_iter().map(Into::into).collect(), ..Routes::default() }
    }

    /// Adds an entry, or says everything that is wrong with it.
    pub(super) fn add(&mut self, raw: &RawOperation) -> Result<(), Vec<PathError>> {
        let mut problems = Vec::new();
        let name = OPERATIONS.iter().find(|known| **known == raw.name);
        if name.is_none() {
            problems.push(PathError::BadOperation { name: raw.name.clone() });
        }
        let dialect = raw.dialect.as_deref().map(|name| (name, dialect::named(name)));
        if let Some((name, None)) = dialect {
            problems.push(PathError::BadDialect { name: name.to_owned() });
        }
        let boxed = |list: &[String]| list.iter().map(|one| one.as_str().into()).collect::<Vec<Box<str>>>();
        for path in &raw.paths {
            let pattern = match parse(path) {
                Ok(pattern) => pattern,
                Err(problem) => {
                    problems.push(PathError::BadPath { path: path.clone(), problem });
                    continue;
                }
            };
            let route = Route {
                text: path.as_str().into(),
                rank: rank(&pattern, raw),
                pattern,
                methods: if raw.methods.is_empty() { vec!["POST".into()] } else { boxed(&raw.methods) },
                providers: boxed(&raw.providers),
                model: raw.model.as_deref().map(Into::into),
                operation: Operation {
                    name: name.copied().unwrap_or("other"),
                    dialect: dialect.and_then(|(_, dialect)| dialect),
                    inference: raw.inference,
                    telling: raw.telling,
                    batch: raw.batch,
                    ..Operation::OTHER
                },
            };
            match self.routes.iter().find(|other| other.is_confusable_with(&route)) {
                Some(other) => problems
                    .push(PathError::Ambiguous { path: path.clone(), other: other.text.clone().into() }),
                None => self.insert(route),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn insert(&mut self, route: Route) {
        let place = self.routes.len();
        let list = match route.pattern.last() {
            Some(Segment::Literal(text)) => self.by_end.entry(text.clone()).or_default(),
            Some(Segment::Verb(verb, _)) => self.by_end.entry(format!(":{verb}").into()).or_default(),
            _ => &mut self.open,
        };
        self.routes.push(route);
        list.push(place);
        let routes = &self.routes;
        list.sort_by_key(|place| std::cmp::Reverse(routes.get(*place).map(|route| route.rank)));
    }

    /// What a request with `method` for `target` to `provider` is for; `None` if no pattern says.
    pub(super) fn find<'a>(&self, provider: &str, method: &str, target: &'a str) -> Option<Operation<'a>> {
        let mut held = [""; SEGMENTS_MAX];
        let path = segments(path_of(target), &mut held);
        let last = path.last().copied().unwrap_or("");
        let verb = last.rfind(':').and_then(|at| last.get(at..));
        let lists = [self.by_end.get(last), verb.and_then(|verb| self.by_end.get(verb)), Some(&self.open)];
        let first = |list: &Vec<usize>| {
            let routes = list.iter().filter_map(|place| self.routes.get(*place));
            routes.filter(|route| route.is_for(provider, method)).find_map(|route| {
                let model = matching(&route.pattern, path)?.map(|(first, last)| between(target, first, last));
                let model = model.or_else(|| self.model_in(path));
                let fits =
                    route.model.as_deref().is_none_or(|part| model.is_some_and(|model| model.contains(part)));
                fits.then_some((route, model))
            })
        };
        let best = lists.into_iter().flatten().filter_map(first).max_by_key(|(route, _)| route.rank);
        best.map(|(route, model)| Operation { model, ..route.operation })
    }

    /// The segment that names a deployment, wherever it stands.
    fn model_in<'a>(&self, path: &[&'a str]) -> Option<&'a str> {
        let is_mark = |segment: &&str| self.model_after.iter().any(|mark| **mark == **segment);
        let at = path.iter().position(is_mark)?;
        path.get(at + 1).copied()
    }
}

impl Route {
    fn is_for(&self, provider: &str, method: &str) -> bool {
        let any = |list: &[Box<str>], one: &str| list.iter().any(|other| **other == *one || **other == *"*");
        any(&self.methods, method) && (self.providers.is_empty() || any(&self.providers, provider))
    }

    /// Whether some request matches both, and neither is the more specific one.
    fn is_confusable_with(&self, other: &Route) -> bool {
        let share = |left: &[Box<str>], right: &[Box<str>]| {
            left.iter().any(|one| **one == *"*" || right.iter().any(|two| **two == *"*" || one == two))
        };
        self.rank == other.rank
            && self.model == other.model
            && share(&self.methods, &other.methods)
            && (self.providers.is_empty() || share(&self.providers, &other.providers))
            && meet(&self.pattern, &other.pattern)
    }
}

fn rank(pattern: &[Segment], raw: &RawOperation) -> Rank {
    let count = |wanted: fn(&Segment) -> bool| pattern.iter().filter(|one| wanted(one)).count();
    Rank {
        of_provider: !raw.providers.is_empty(),
        of_model: raw.model.is_some(),
        literals: count(|one| matches!(one, Segment::Literal(_))),
        verbs: count(|one| matches!(one, Segment::Verb(..))),
        ones: count(|one| matches!(one, Segment::One(_))),
        bounded: pattern.last() != Some(&Segment::Any),
        anchored: pattern.first() != Some(&Segment::Any),
    }
}

fn parse(text: &str) -> Result<Vec<Segment>, &'static str> {
    let rest = text.strip_prefix('/').unwrap_or(text);
    if rest.is_empty() {
        return Err("is empty");
    }
    if text.len() > 512 || text.split('/').count() > SEGMENTS_MAX {
        return Err("is longer than 512 bytes or 32 segments");
    }
    if !text.starts_with('/') && !text.starts_with("**/") {
        return Err("must begin with \"/\", or with \"**/\" for any prefix");
    }
    let mut segments: Vec<Segment> = Vec::new();
    for part in rest.trim_end_matches('/').split('/') {
        let segment = match part {
            "" => return Err("has an empty segment"),
            "**" => Segment::Any,
            "*" => Segment::One(false),
            "{model}" => Segment::One(true),
            part => match (part.strip_prefix("{model}:"), part.strip_prefix("*:")) {
                (Some(verb), _) => Segment::Verb(verb.into(), true),
                (_, Some(verb)) => Segment::Verb(verb.into(), false),
                _ if part.contains(['*', '{', '}', '?', '#', ' ']) => {
                    return Err(
                        "has a sign that only \"**\", \"*\", \"{model}\" and \"{model}:verb\" may have",
                    );
                }
                _ => Segment::Literal(part.into()),
            },
        };
        if segment == Segment::Any && segments.last() == Some(&Segment::Any) {
            return Err("repeats \"**\"");
        }
        segments.push(segment);
    }
    let names = |segment: &Segment| matches!(segment, Segment::One(true) | Segment::Verb(_, true));
    let places: Vec<usize> = (0..segments.len()).filter(|at| segments.get(*at).is_some_and(names)).collect();
    match places.windows(2).all(|pair| matches!(pair, [one, two] if one + 1 == *two)) {
        true => Ok(segments),
        false => Err("names the model twice"),
    }
}

/// The first and the last of the segments that name a model.
type Span<'a> = (&'a str, &'a str);

/// The part of `text` from `first` to `last`, both of which lie in it.
fn between<'a>(text: &'a str, first: &'a str, last: &'a str) -> &'a str {
    let start = first.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    let end = last.as_ptr().addr().wrapping_sub(text.as_ptr().addr()).wrapping_add(last.len());
    text.get(start..end).unwrap_or(last)
}

/// Where the model stands in `path`, if it matches and names one.
fn matching<'a>(pattern: &[Segment], path: &[&'a str]) -> Option<Option<Span<'a>>> {
    let Some((segment, later)) = pattern.split_first() else { return path.is_empty().then_some(None) };
    if *segment == Segment::Any {
        // Behind the last `**` the rest is as long as what is left of the pattern.
        if !later.contains(&Segment::Any) {
            let skip = path.len().checked_sub(later.len())?;
            return matching(later, path.get(skip..)?);
        }
        return (0..=path.len()).find_map(|skip| matching(later, path.get(skip..)?));
    }
    let (first, rest) = path.split_first()?;
    let model = match segment {
        Segment::Any => None,
        Segment::One(model) => model.then_some(*first),
        Segment::Literal(text) => (**text == **first).then_some(None)?,
        Segment::Verb(verb, model) => {
            let (name, _) =
                first.rsplit_once(':').filter(|(name, end)| !name.is_empty() && *end == &**verb)?;
            model.then_some(name)
        }
    };
    let found = matching(later, rest)?;
    Some(match (model, found) {
        (Some(first), Some((_, last))) => Some((first, last)),
        (Some(only), None) => Some((only, only)),
        (None, found) => found,
    })
}

/// Whether a path exists that matches both.
fn meet(left: &[Segment], right: &[Segment]) -> bool {
    match (left.split_first(), right.split_first()) {
        (None, None) => true,
        (Some((Segment::Any, rest)), _) if meet(rest, right) => true,
        (_, Some((Segment::Any, rest))) if meet(left, rest) => true,
        (Some((one, left_rest)), Some((two, right_rest))) => match (one, two) {
            (Segment::Any, _) => meet(left, right_rest),
            (_, Segment::Any) => meet(left_rest, right),
            (one, two) => alike(one, two) && meet(left_rest, right_rest),
        },
        _ => false,
    }
}

/// Whether one segment of a path can match both.
fn alike(one: &Segment, two: &Segment) -> bool {
    let ends = |text: &str, verb: &str| {
        text.rsplit_once(':').is_some_and(|(name, end)| !name.is_empty() && end == verb)
    };
    match (one, two) {
        (Segment::Literal(one), Segment::Literal(two)) => one == two,
        (Segment::Verb(one, _), Segment::Verb(two, _)) => one == two,
        (Segment::Literal(text), Segment::Verb(verb, _))
        | (Segment::Verb(verb, _), Segment::Literal(text)) => ends(text, verb),
        _ => true,
    }
}

/// The path of a request target, without query.
fn path_of(target: &str) -> &str {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    path.split_once("://")
        .map_or(path, |(_, rest)| rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"))
}

/// The segments of a path; empty ones (double slashes occur) are passed over.
fn segments<'a, 'b>(path: &'a str, held: &'b mut [&'a str; SEGMENTS_MAX]) -> &'b [&'a str] {
    let mut count = 0;
    for segment in path.rsplit('/').filter(|segment| !segment.is_empty()).take(SEGMENTS_MAX) {
        count += 1;
        if let Some(slot) = held.get_mut(SEGMENTS_MAX - count) {
            *slot = segment;
        }
    }
    held.get(SEGMENTS_MAX - count..).unwrap_or_default()
}
