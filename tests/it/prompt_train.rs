//! The set `prompt-train` on rows as its system has them: each backfill against a computation of its own.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::world::World;

/// A request as the system stored it.
#[derive(Clone, Debug)]
struct Request {
    id: String,
    domain: &'static str,
    /// Seconds after the first.
    at: u64,
    account: Option<&'static str>,
    body: Value,
    response: Value,
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.roll(list.len() as u64)).unwrap()]
    }
}

struct Generator {
    dice: Dice,
    now: u64,
    requests: Vec<Request>,
}

const DOMAINS: [&str; 4] = ["alpha.example", "beta.example", "gamma.example", "delta.example"];

impl Generator {
    /// What somebody says, spelled in one of the ways that mean the same.
    fn content(&mut self, text: &str) -> Value {
        match self.dice.roll(3) {
            0 => json!(text),
            1 => json!([{"type": "text", "text": text}]),
            _ => json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]),
        }
    }

    fn request(&mut self, domain: &'static str, system: Option<&Value>, messages: &[Value], response: Value) {
        let account = match (domain, self.dice.roll(3)) {
            ("alpha.example", 0) | ("gamma.example", 1) => Some("acc_1"),
            // One domain that two accounts were used by, and one that nothing is known of.
            ("beta.example" | "gamma.example", 0) => Some("acc_2"),
            _ => None,
        };
        let number = self.requests.len();
        let mut body = json!({"model": "m", "messages": messages});
        if let Some(system) = system {
            body["system"] = system.clone();
        }
        // Ids are in no order of time.
        let id = format!("{:08x}-0000-4000-8000-{number:012x}", self.dice.roll(u64::from(u32::MAX)));
        self.requests.push(Request { id, domain, at: self.now, account, body, response });
        self.now += self.dice.roll(4);
    }

    /// A conversation with its branches, and with what it has others do.
    fn conversation(&mut self, domain: &'static str, first: &str, depth: u32) {
        let mut system = match self.dice.roll(3) {
            0 => None,
            1 => Some(json!("Be brief. \u{fc}ber alles \"klar\"")),
            _ => Some(json!([{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}])),
        };
        let turns = 1 + self.dice.roll(5);
        let mut messages = vec![json!({"role": "user", "content": self.content(first)})];
        let mut past: Vec<Vec<Value>> = Vec::new();
        for turn in 0..turns {
            let mut tasks = Vec::new();
            if depth < 3 && self.dice.roll(4) == 0 {
                for _ in 0..=self.dice.roll(2) {
                    tasks.push(format!("Look into {} of {}", self.dice.roll(1_000_000), self.requests.len()));
                }
            }
            let mut said = vec![json!({"type": "text", "text": format!("Answer {turn}")})];
            for task in &tasks {
                said.push(json!({"type": "tool_use", "id": "t", "name": "Task", "input": {"prompt": task, "description": "x"}}));
            }
            if self.dice.roll(5) == 0 {
                said.push(json!({"type": "tool_use", "id": "b", "name": "Bash", "input": {"command": "ls"}}));
            }
            let response = json!({"role": "assistant", "content": said});
            self.request(domain, system.as_ref(), &messages, response.clone());
            past.push(messages.clone());
            for task in tasks {
                // In time, or too late to be taken for its subtask.
                self.now += if self.dice.roll(5) == 0 { 31 } else { 1 + self.dice.roll(10) };
                self.conversation(domain, &task, depth + 1);
            }
            messages.push(response);
            let question = format!("Question {turn} \n {}", self.dice.roll(1000));
            messages.push(json!({"role": "user", "content": self.content(&question)}));
            if self.dice.roll(8) == 0 {
                system = Some(json!(format!("Now be {}", self.dice.roll(9))));
            }
            // Somebody goes back to an earlier point, or sends the same again.
            if self.dice.roll(6) == 0 {
                let again = usize::try_from(self.dice.roll(past.len() as u64)).unwrap();
                let earlier = past[again].clone();
                if self.dice.roll(2) == 0 && earlier.len() > 2 {
                    let mut other = earlier;
                    let last = other.len() - 1;
                    other[last] =
                        json!({"role": "user", "content": format!("Rather {}", self.dice.roll(1000))});
                    self.request(domain, system.as_ref(), &other, json!({"content": []}));
                } else {
                    self.request(domain, system.as_ref(), &earlier, json!({"content": []}));
                }
            }
        }
    }
}

fn generate(seed: u64, conversations: usize) -> Vec<Request> {
    let mut generator = Generator { dice: Dice(seed), now: 0, requests: Vec::new() };
    for number in 0..conversations {
        let domain = generator.dice.pick(&DOMAINS);
        // Some begin with the very same words.
        let first = format!("Hello {}", number % 40);
        generator.conversation(domain, &first, 0);
        generator.now += generator.dice.roll(120);
        if generator.dice.roll(10) == 0 {
            let (at, count) = (generator.now, generator.requests.len());
            let id = format!("ffffffff-0000-4000-8000-{count:012x}");
            let body = generator.dice.pick(&["null", "{}", "{\"messages\": []}", "{\"messages\": \"x\"}"]);
            let body = serde_json::from_str(body).unwrap();
            generator.requests.push(Request { id, domain, at, account: None, body, response: Value::Null });
        }
    }
    generator.requests
}

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

fn text(content: &Value) -> String {
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

fn hash(said: &str) -> String {
    Sha256::digest(said).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn messages(request: &Request) -> &[Value] {
    request.body["messages"].as_array().map_or(&[], Vec::as_slice)
}

/// The hashes of a request's messages and of those without the last exchange.
fn hashes(request: &Request, with_system: bool) -> Option<(String, Option<String>)> {
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
struct Expected {
    conversation: HashMap<String, String>,
    branch: HashMap<String, String>,
    task_parent: HashMap<String, String>,
    parent: HashMap<String, String>,
    top: HashMap<String, (String, String)>,
    account: HashMap<String, String>,
}

fn in_time(requests: &[Request]) -> Vec<&Request> {
    let mut sorted: Vec<_> = requests.iter().collect();
    sorted.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    sorted
}

fn expect(requests: &[Request]) -> Expected {
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

fn insert(world: &World, id: &str, requests: &[Request]) {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let row = |it: &Request| {
        let account = it.account.map_or_else(|| "NULL".into(), quote);
        let (body, response) = (quote(&it.body.to_string()), quote(&it.response.to_string()));
        format!(
            "('{}', '{}', timestamptz '2026-01-01 00:00:00Z' + interval '{} seconds', {account}, 'POST', '/v1/messages', {body}, {response})",
            it.id, it.domain, it.at
        )
    };
    let rows: Vec<_> = requests.iter().map(row).collect();
    let sql = format!(
        "INSERT INTO api_requests (request_id, domain, timestamp, account_id, method, path, body, response_body) VALUES\n{};\n",
        rows.join(",\n")
    );
    let file = world.folder().join(format!("{id}.sql"));
    std::fs::write(&file, sql).unwrap();
    world.database().run_in(id, &["-f", file.to_str().unwrap()]);
}

/// One column of all requests, by their ids; NULL is left out.
fn column(world: &World, id: &str, expression: &str) -> HashMap<String, String> {
    let sql = format!("SELECT request_id, {expression} FROM api_requests WHERE ({expression}) IS NOT NULL");
    let rows = world.query(id, &sql);
    rows.iter().map(|row| row.split_once('|').map(|(a, b)| (a.into(), b.into())).unwrap()).collect()
}

fn by_id<T: Clone>(requests: &[Request], value: impl Fn(&Request) -> Option<T>) -> HashMap<String, T> {
    requests.iter().filter_map(|it| Some((it.id.clone(), value(it)?))).collect()
}

#[test]
fn every_backfill_comes_to_what_was_worked_out_and_again_to_the_same() {
    let world = World::postgres().of_set("prompt-train");
    let requests = generate(7, 150);
    let expected = expect(&requests);
    assert!(requests.len() > 1000, "{}", requests.len());
    // Each case has to be among them, or nothing is proven.
    let values =
        |map: &HashMap<String, String>, part: &str| map.values().filter(|it| it.starts_with(part)).count();
    let moved = expected
        .parent
        .iter()
        .filter(|(child, parent)| expected.conversation[*child] != expected.conversation[*parent]);
    let nested = expected.task_parent.values().filter(|it| expected.task_parent.contains_key(*it)).count();
    let cases = [values(&expected.branch, "branch_"), expected.task_parent.len(), moved.count(), nested];
    assert!(cases.iter().all(|count| *count > 10), "{cases:?} of {}", requests.len());

    world.expect(0, &["create", "a"]);
    world.expect(0, &["downgrade", "a", "--to", "000"]);
    insert(&world, "a", &requests);
    let all = || world.query("a", "SELECT r::text FROM api_requests r ORDER BY request_id");
    for version in 1..=14 {
        let version = format!("{version:03}");
        let report = world.expect(0, &["upgrade", "a", "--to", &version]);
        assert_eq!(report.outcome("a"), "upgraded");
        let hashed = |with_system: bool| {
            let own = by_id(&requests, |it| Some(hashes(it, with_system)?.0));
            assert_eq!(column(&world, "a", "current_message_hash"), own, "{version}");
            let before = by_id(&requests, |it| hashes(it, with_system)?.1);
            assert_eq!(column(&world, "a", "parent_message_hash"), before, "{version}");
        };
        match version.as_str() {
            "001" => {
                hashed(true);
                assert_eq!(column(&world, "a", "conversation_id"), expected.conversation);
                let branch =
                    |it: &Request| Some(expected.branch.get(&it.id).cloned().unwrap_or("main".into()));
                assert_eq!(column(&world, "a", "branch_id"), by_id(&requests, branch));
                let count = |it: &Request| Some(messages(it).len().to_string());
                assert_eq!(column(&world, "a", "message_count"), by_id(&requests, count));
            }
            "003" => {
                assert_eq!(column(&world, "a", "parent_task_request_id"), expected.task_parent);
                let flag = |it: &Request| expected.task_parent.get(&it.id).map(|_| "t".to_string());
                assert_eq!(column(&world, "a", "CASE WHEN is_subtask THEN 't' END"), by_id(&requests, flag));
                let uses = |it: &Request| {
                    let uses =
                        it.response["content"].as_array()?.iter().filter(|block| block["name"] == "Task");
                    Some(uses.count().to_string()).filter(|count| count != "0")
                };
                assert_eq!(
                    column(&world, "a", "jsonb_array_length(task_tool_invocation)"),
                    by_id(&requests, uses)
                );
            }
            "005" => assert_eq!(column(&world, "a", "account_id"), expected.account),
            "006" => {
                hashed(false);
                let system = |it: &Request| it.body.get("system").map(|system| hash(&text(system)));
                assert_eq!(column(&world, "a", "system_hash"), by_id(&requests, system));
                assert_eq!(column(&world, "a", "conversation_id"), expected.conversation);
            }
            "007" => assert_eq!(column(&world, "a", "parent_request_id"), expected.parent),
            "008" => {
                let place = |it: &Request| {
                    expected.top.get(&it.id).map(|(conversation, branch)| format!("{conversation} {branch}"))
                };
                let found = column(
                    &world,
                    "a",
                    "CASE WHEN conversation_id IS NOT NULL THEN conversation_id || ' ' || branch_id END",
                );
                assert_eq!(found, by_id(&requests, place));
            }
            "012" => assert_eq!(
                column(&world, "a", "train_id"),
                by_id(&requests, |it| Some(it.domain.to_string()))
            ),
            "014" => {
                let owners = "SELECT t.train_id, m.user_email, m.role FROM trains t LEFT JOIN train_members m ON m.train_id = t.id ORDER BY 1";
                let mut domains = DOMAINS;
                domains.sort_unstable();
                assert_eq!(world.query("a", owners), domains.map(|it| format!("{it}|todo@localhost|owner")));
            }
            _ => {}
        }
        // Its statements once more: nothing is another.
        let before = (all(), world.contents("a"));
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/prompt-train/postgres");
        let mut entries = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        let script =
            entries.find(|it| it.file_name().unwrap().to_string_lossy().starts_with(&version)).unwrap();
        world.database().run_in("a", &["-1", "-f", script.join("up.sql").to_str().unwrap()]);
        assert!(before == (all(), world.contents("a")), "{version} changes something when it is run again");
        assert_eq!(world.expect(0, &["status", "a"]).problem("a").0, "", "{version}");
    }
    world.expect(0, &["check", "a"]);
}

#[test]
fn fifty_schemas_go_from_003_to_the_newest_with_their_rows() {
    let world = World::postgres().of_set("prompt-train");
    let ids: Vec<String> = (1..=50).map(|number| number.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    world.expect(0, &[vec!["create"], ids.clone()].concat());
    world.expect(0, &[vec!["downgrade"], ids.clone(), vec!["--to", "000"]].concat());
    let mut expected = Vec::new();
    for (seed, id) in ids.iter().enumerate() {
        let requests = generate(seed as u64 + 100, 12);
        insert(&world, id, &requests);
        expected.push((requests.len(), expect(&requests).top.len()));
    }
    world.expect(0, &[vec!["upgrade"], ids.clone(), vec!["--to", "003"]].concat());
    assert_eq!(world.expect(0, &["upgrade-all"]).count("upgraded"), 50);
    for (id, (rows, placed)) in ids.iter().zip(expected) {
        let counted =
            world.query(id, "SELECT count(*), count(conversation_id), count(train_id) FROM api_requests");
        assert_eq!(counted, [format!("{rows}|{placed}|{rows}")], "{id}");
    }
    assert_eq!(world.expect(0, &["check", "--all"]).count("checked"), 50);
}

#[test]
fn the_rules_of_the_system_hold_and_its_queries_have_their_indexes() {
    let world = World::postgres().of_set("prompt-train");
    world.expect(0, &["create", "a"]);
    world.expect(0, &["downgrade", "a", "--to", "000"]);
    insert(&world, "a", &generate(3, 300));
    world.expect(0, &["upgrade", "a"]);
    let first = world.query("a", "SELECT id FROM trains ORDER BY train_id LIMIT 1").remove(0);
    let refused = |sql: &str, part: &str| {
        let sql = format!(
            "DO $$ BEGIN {sql}; SET CONSTRAINTS ALL IMMEDIATE; RAISE EXCEPTION 'nothing stopped it'; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; PERFORM set_config('test.error', SQLERRM, false); END $$"
        );
        let said = world.database().run_in("a", &["-c", &sql, "-c", "SELECT current_setting('test.error')"]);
        assert!(said.join(" ").contains(part), "{sql}: {said:?}");
    };
    let request = "SELECT request_id FROM api_requests WHERE parent_request_id IS NULL LIMIT 1";
    refused(
        &format!("INSERT INTO train_members (train_id, user_email, role) VALUES ('{first}', 'x', 'guest')"),
        "check constraint",
    );
    refused(
        &format!(
            "INSERT INTO train_members (train_id, user_email, role) VALUES ('{first}', 'todo@localhost', 'member')"
        ),
        "unique",
    );
    refused("DELETE FROM train_members", "at least one owner");
    refused("UPDATE train_members SET role = 'member'", "at least one owner");
    refused("INSERT INTO trains (train_id, name) VALUES ('alpha.example', 'x')", "unique");
    refused(
        "INSERT INTO train_api_keys (train_id, key_hash, key_prefix) VALUES (gen_random_uuid(), 'k', 'p')",
        "foreign key",
    );
    refused(
        "INSERT INTO conversation_analyses (conversation_id, retry_count) VALUES (gen_random_uuid(), -1)",
        "check constraint",
    );
    refused(
        "INSERT INTO conversation_analyses (conversation_id, status) VALUES (gen_random_uuid(), 'lost')",
        "enum",
    );
    refused(
        "INSERT INTO conversation_analyses (conversation_id) SELECT '00000000-0000-0000-0000-000000000001' FROM generate_series(1, 2)",
        "unique",
    );
    refused(
        "INSERT INTO streaming_chunks (request_id, chunk_index, data) VALUES (gen_random_uuid(), 1, 'x')",
        "foreign key",
    );
    refused(
        &format!(
            "INSERT INTO streaming_chunks (request_id, chunk_index, data) SELECT ({request}), 1, 'x' FROM generate_series(1, 2)"
        ),
        "unique",
    );
    refused("INSERT INTO api_requests (domain, method) VALUES ('x', 'POST')", "null value");
    refused("UPDATE api_requests SET parent_request_id = gen_random_uuid()", "foreign key");
    refused("UPDATE api_requests SET parent_task_request_id = gen_random_uuid()", "foreign key");
    // One owner takes over from the other in one transaction; a train takes its members along.
    world.execute("a", &format!("BEGIN; DELETE FROM train_members WHERE train_id = '{first}'; INSERT INTO train_members (train_id, user_email, role) VALUES ('{first}', 'ada@example', 'owner'); COMMIT"));
    world.execute("a", &format!("DELETE FROM trains WHERE id = '{first}'"));
    assert_eq!(
        world.query("a", &format!("SELECT count(*) FROM train_members WHERE train_id = '{first}'")),
        ["0"]
    );
    // updated_at follows by its trigger.
    world.execute("a", "INSERT INTO conversation_analyses (conversation_id, updated_at) VALUES (gen_random_uuid(), '2000-01-01')");
    world.execute(
        "a",
        "UPDATE conversation_analyses SET status = 'completed'; UPDATE trains SET updated_at = '2000-01-01'",
    );
    for table in ["conversation_analyses", "trains"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE updated_at < '2026-01-01'");
        assert_eq!(world.query("a", &sql), ["0"], "{table}");
    }
    // A chunk goes with its request, a link becomes none.
    world.execute(
        "a",
        &format!("INSERT INTO streaming_chunks (request_id, chunk_index, data) VALUES (({request}), 1, 'x')"),
    );
    world.execute("a", "DELETE FROM api_requests WHERE parent_request_id IS NULL");
    assert_eq!(world.query("a", "SELECT count(*) FROM streaming_chunks"), ["0"]);
    let orphans = "SELECT count(*) > 0 FROM api_requests WHERE parent_request_id IS NULL";
    assert_eq!(world.query("a", orphans), ["t"]);
    world.execute(
        "a",
        "REFRESH MATERIALIZED VIEW hourly_stats; REFRESH MATERIALIZED VIEW CONCURRENTLY hourly_stats",
    );
    assert_eq!(
        world.query("a", "SELECT sum(request_count) = (SELECT count(*) FROM api_requests) FROM hourly_stats"),
        ["t"]
    );
    world.execute("a", "ANALYZE");
    let conversation = "(SELECT conversation_id FROM api_requests WHERE conversation_id IS NOT NULL LIMIT 1)";
    for (query, index) in [
        (format!("SELECT request_id FROM api_requests WHERE conversation_id = {conversation} ORDER BY timestamp"), "idx_requests_conversation"),
        (format!("SELECT request_id, row_number() OVER (PARTITION BY conversation_id ORDER BY timestamp DESC, request_id DESC) FROM api_requests WHERE conversation_id = {conversation}"), "idx_requests_conversation_window"),
        ("SELECT request_id FROM api_requests WHERE response_body @> '{\"content\": [{\"name\": \"Task\"}]}'".into(), "idx_requests_response_body"),
        ("SELECT request_id FROM api_requests WHERE task_tool_invocation @> '[{\"name\": \"Task\"}]'".into(), "idx_requests_task_invocation"),
        ("SELECT request_id FROM api_requests WHERE parent_request_id = gen_random_uuid()".into(), "idx_requests_parent_request"),
        ("SELECT request_id FROM api_requests WHERE train_id = 'x' ORDER BY timestamp".into(), "idx_requests_train_timestamp"),
        ("SELECT request_id FROM api_requests WHERE account_id = 'acc_1' AND timestamp > '2026-02-01'".into(), "idx_requests_account_timestamp"),
        ("SELECT id FROM conversation_analyses WHERE status = 'pending' ORDER BY created_at LIMIT 1".into(), "idx_analyses_pending"),
        ("SELECT id FROM train_members WHERE user_email = 'x'".into(), "idx_train_members_email"),
    ] {
        // So few rows are read faster as they lie, or by the index of the few that have a Task; the question is whether this one
        // can answer.
        let plan = world.database().run_in("a", &["-c", "BEGIN", "-c", "DROP INDEX idx_requests_task_time", "-c", "SET LOCAL enable_seqscan = off", "-c", &format!("EXPLAIN {query}"), "-c", "ROLLBACK"]).join("\n");
        assert!(plan.contains(index), "{query}: {plan}");
    }
}
