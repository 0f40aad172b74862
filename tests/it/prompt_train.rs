//! The set `prompt-train` on realistic rows: each backfill is compared with an independent computation.

mod expected;
mod rows;

use std::collections::HashMap;

use crate::world::World;

use expected::{expect, hash, hashes, messages, text};
use rows::{DOMAINS, Request, generate};

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

/// One expression for all requests, by request id. Excludes nulls.
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
    // The requests have to contain each case, or the test proves nothing.
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
    let all_rows = || world.query("a", "SELECT r::text FROM api_requests r ORDER BY request_id");
    for version in 1..=14 {
        let version = format!("{version:03}");
        let report = world.expect(0, &["upgrade", "a", "--to", &version]);
        assert_eq!(report.outcome("a"), "upgraded");
        let hashed = |with_system: bool| {
            let current = by_id(&requests, |it| Some(hashes(it, with_system)?.0));
            assert_eq!(column(&world, "a", "current_message_hash"), current, "{version}");
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
                let system = |it: &Request| {
                    let system = it.body.get("system").filter(|system| !system.is_null())?;
                    Some(hash(&text(system)))
                };
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
        // Running the script again changes nothing.
        let before = (all_rows(), world.contents("a"));
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/prompt-train/postgres");
        let mut entries = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        let script =
            entries.find(|it| it.file_name().unwrap().to_string_lossy().starts_with(&version)).unwrap();
        world.database().run_in("a", &["-1", "-f", script.join("up.sql").to_str().unwrap()]);
        assert!(
            before == (all_rows(), world.contents("a")),
            "{version} changes something when it is run again"
        );
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
            "DO $$ BEGIN {sql}; SET CONSTRAINTS ALL IMMEDIATE; RAISE EXCEPTION 'the statement was accepted'; EXCEPTION WHEN OTHERS THEN RAISE NOTICE '%', SQLERRM; PERFORM set_config('test.error', SQLERRM, false); END $$"
        );
        let output =
            world.database().run_in("a", &["-c", &sql, "-c", "SELECT current_setting('test.error')"]);
        assert!(output.join(" ").contains(part), "{sql}: {output:?}");
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
    // One transaction can replace the owner. Deleting a train deletes its members.
    world.execute("a", &format!("BEGIN; DELETE FROM train_members WHERE train_id = '{first}'; INSERT INTO train_members (train_id, user_email, role) VALUES ('{first}', 'ada@example', 'owner'); COMMIT"));
    world.execute("a", &format!("DELETE FROM trains WHERE id = '{first}'"));
    assert_eq!(
        world.query("a", &format!("SELECT count(*) FROM train_members WHERE train_id = '{first}'")),
        ["0"]
    );
    // Each branch of a conversation can have its own analysis.
    world.execute("a", "INSERT INTO conversation_analyses (conversation_id, branch_id) VALUES ('00000000-0000-0000-0000-000000000001', 'main'), ('00000000-0000-0000-0000-000000000001', 'branch_2')");
    // A train inserted without an owner gets a default one. A train inserted with an owner has only that one.
    world.execute("a", "INSERT INTO trains (train_id, name) VALUES ('alone', 'Alone')");
    world.execute("a", "BEGIN; INSERT INTO trains (id, train_id, name) VALUES ('00000000-0000-0000-0000-0000000000aa', 'owned', 'Owned'); INSERT INTO train_members (train_id, user_email, role) VALUES ('00000000-0000-0000-0000-0000000000aa', 'ada@example', 'owner'); COMMIT");
    let owners = "SELECT t.train_id, m.user_email FROM trains t LEFT JOIN train_members m ON m.train_id = t.id WHERE t.train_id IN ('alone', 'owned') ORDER BY 1";
    assert_eq!(world.query("a", owners), ["alone|todo@localhost", "owned|ada@example"]);
    // A trigger keeps updated_at current.
    world.execute("a", "INSERT INTO conversation_analyses (conversation_id, updated_at) VALUES (gen_random_uuid(), '2000-01-01')");
    world.execute(
        "a",
        "UPDATE conversation_analyses SET status = 'completed'; UPDATE trains SET updated_at = '2000-01-01'",
    );
    world.execute("a", "INSERT INTO anthropic_credentials (account_id, account_name, oauth_access_token, oauth_refresh_token, oauth_expires_at, updated_at) VALUES ('x', 'x', 'x', 'x', now(), '2000-01-01'); UPDATE anthropic_credentials SET updated_at = '2000-01-01'");
    for table in ["conversation_analyses", "trains", "anthropic_credentials"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE updated_at < '2026-01-01'");
        assert_eq!(world.query("a", &sql), ["0"], "{table}");
    }
    // Deleting a request deletes its chunks and sets references to it to null.
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
        // With so few rows, the planner prefers a sequential scan or the partial index on Task requests. Without these,
        // the plan shows whether this index can answer the query.
        let plan = world.database().run_in("a", &["-c", "BEGIN", "-c", "DROP INDEX idx_requests_task_time", "-c", "SET LOCAL enable_seqscan = off", "-c", &format!("EXPLAIN {query}"), "-c", "ROLLBACK"]).join("\n");
        assert!(plan.contains(index), "{query}: {plan}");
    }
}
