//! What the backfills should come to, worked out without SQL, one request after the other.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::rows::Request;

/// JSON as Postgres writes its `jsonb`: short keys first.
fn jsonb(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.keys().collect();
            keys.sort_by_key(|key| (key.len(), (*key).clone()));
            let fields: Vec<_> =
                keys.iter().map(|key| format!("{}: {}", json!(key), jsonb(&fields[*key]))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(jsonb).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

pub(super) fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let line = |block: &Value| {
                if block["type"] == "text" {
                    return block["text"].as_str().unwrap().to_string();
                }
                let mut block = block.clone();
                block.as_object_mut().unwrap().remove("cache_control");
                jsonb(&block)
            };
            blocks.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        Value::Null => String::new(),
        other => jsonb(other),
    }
}

pub(super) fn hash(said: &str) -> String {
    Sha256::digest(said).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

pub(super) fn messages(request: &Request) -> &[Value] {
    request.body["messages"].as_array().map_or(&[], Vec::as_slice)
}

/// The hashes of a request's messages and of those without the last exchange.
pub(super) fn hashes(request: &Request, with_system: bool) -> Option<(String, Option<String>)> {
    let all = messages(request);
    let of = |count: usize| {
        let said =
            |it: &Value| format!("{}: {}", it["role"].as_str().unwrap_or_default(), text(&it["content"]));
        let joined = all[..count].iter().map(said).collect::<Vec<_>>().join("\u{1e}");
        let system =
            if with_system { format!("{}\u{1d}", text(&request.body["system"])) } else { String::new() };
        hash(&format!("{system}{joined}"))
    };
    if all.is_empty() {
        return None;
    }
    Some((of(all.len()), (all.len() > 2).then(|| of(all.len() - 2))))
}

/// What the backfills should come to, worked out one request after the other as time went.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) conversation: HashMap<String, String>,
    pub(super) branch: HashMap<String, String>,
    pub(super) task_parent: HashMap<String, String>,
    pub(super) parent: HashMap<String, String>,
    pub(super) top: HashMap<String, (String, String)>,
    pub(super) account: HashMap<String, String>,
}

fn in_time(requests: &[Request]) -> Vec<&Request> {
    let mut sorted: Vec<_> = requests.iter().collect();
    sorted.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    sorted
}

pub(super) fn expect(requests: &[Request]) -> Expected {
    let mut expected = Expected::default();
    let sorted = in_time(requests);
    // 001: conversations and branches.
    let mut last: HashMap<(&str, String), &Request> = HashMap::new();
    let mut continued: HashMap<String, usize> = HashMap::new();
    let mut branches: HashMap<String, usize> = HashMap::new();
    for request in &sorted {
        let Some((own, before)) = hashes(request, true) else { continue };
        let parent = before.and_then(|before| last.get(&(request.domain, before)).copied());
        let (conversation, branch) = match parent {
            None => (request.id.clone(), "main".to_string()),
            Some(parent) => {
                let conversation = expected.conversation[&parent.id].clone();
                let times = continued.entry(parent.id.clone()).or_default();
                *times += 1;
                if *times == 1 {
                    (conversation, expected.branch[&parent.id].clone())
                } else {
                    let number = branches.entry(conversation.clone()).or_default();
                    *number += 1;
                    (conversation, format!("branch_{number}"))
                }
            }
        };
        expected.conversation.insert(request.id.clone(), conversation);
        expected.branch.insert(request.id.clone(), branch);
        last.insert((request.domain, own), request);
    }
    // 003: a conversation that begins with the prompt of a Task belongs to it.
    let mut begun: HashMap<String, String> = HashMap::new();
    for (index, request) in sorted.iter().enumerate() {
        let [only] = messages(request) else { continue };
        if expected.conversation[&request.id] != request.id {
            continue;
        }
        let said = text(&only["content"]);
        let asks = |it: &&&Request| {
            let uses = it.response["content"].as_array().into_iter().flatten();
            it.domain == request.domain
                && it.at < request.at
                && request.at - it.at <= 30
                && uses
                    .clone()
                    .any(|block| block["name"] == "Task" && block["input"]["prompt"] == said.as_str())
        };
        if let Some(parent) = sorted[..index].iter().rev().find(asks) {
            begun.insert(request.id.clone(), parent.id.clone());
        }
    }
    for request in &sorted {
        let parent = expected.conversation.get(&request.id).and_then(|conversation| begun.get(conversation));
        if let Some(parent) = parent {
            expected.task_parent.insert(request.id.clone(), parent.clone());
        }
    }
    // 005: the account of a domain that has one.
    let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for request in requests {
        known.entry(request.domain).or_default().extend(request.account);
    }
    for request in requests {
        let all = &known[request.domain];
        let only = all.first().filter(|first| all.iter().all(|it| it == *first)).copied();
        if let Some(account) = request.account.or(only) {
            expected.account.insert(request.id.clone(), account.into());
        }
    }
    // 007: parents by the messages alone, of the same conversation first.
    let alone: HashMap<&str, (String, Option<String>)> =
        sorted.iter().filter_map(|it| Some((it.id.as_str(), hashes(it, false)?))).collect();
    for (index, request) in sorted.iter().enumerate() {
        let Some((_, Some(before))) = alone.get(request.id.as_str()) else { continue };
        let fits = |it: &&&Request| {
            it.domain == request.domain && alone.get(it.id.as_str()).is_some_and(|(own, _)| own == before)
        };
        let candidates: Vec<_> = sorted[..index].iter().rev().filter(fits).collect();
        let same = |it: &&&&Request| expected.conversation[&it.id] == expected.conversation[&request.id];
        if let Some(parent) = candidates.iter().find(same).or(candidates.first()) {
            expected.parent.insert(request.id.clone(), parent.id.clone());
        }
    }
    // 008: subtasks belong to the conversation at the top, numbered as they began.
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut names: HashMap<String, (String, String)> = HashMap::new();
    for request in &sorted {
        let Some(parent) = begun.get(&request.id) else { continue };
        let mut ancestor = parent.clone();
        while let Some(outer) = expected.task_parent.get(&ancestor) {
            ancestor.clone_from(outer);
        }
        let conversation = expected.conversation[&ancestor].clone();
        let number = numbers.entry(conversation.clone()).or_default();
        *number += 1;
        names.insert(request.id.clone(), (conversation, format!("subtask_{number}")));
    }
    for request in &sorted {
        let Some(own) = expected.conversation.get(&request.id) else { continue };
        let place = names.get(own).cloned();
        let place = place.unwrap_or_else(|| (own.clone(), expected.branch[&request.id].clone()));
        expected.top.insert(request.id.clone(), place);
    }
    expected
}
