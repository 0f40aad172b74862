//! The Postgres cluster that `scripts/postgres` brings up for the tests, spoken to by its own `psql` and `pg_dump`.

use std::process::{Command, Stdio};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run the tests by scripts/test, or scripts/postgres cargo test")
    })
}

/// The folder of the server's socket.
pub(crate) fn socket() -> String {
    variable("TENANTRY_TEST_POSTGRES")
}

/// One of the server's programs.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(format!("{}/{name}", variable("TENANTRY_TEST_POSTGRES_BIN")));
    command.env("PGHOST", socket()).env("PGUSER", "postgres");
    command
}

/// A `psql` in a database, with a project's schema as its `search_path` where one is named.
pub(crate) fn psql(database: &str, project: Option<&str>) -> Command {
    let mut command = program("psql");
    command.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-F",
        "|",
        "-P",
        "null=NULL",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        database,
    ]);
    let path = project.map_or(String::new(), |id| format!("-c search_path=\"project_{id}\" "));
    command.env("PGOPTIONS", format!("{path}-c client_min_messages=warning"));
    command
}

fn output(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs psql; gives the lines it printed.
pub(crate) fn run(database: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = psql(database, None);
    command.args(arguments);
    output(command).lines().map(str::to_string).collect()
}

/// The same in a project's schema.
pub(crate) fn run_in(database: &str, id: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = psql(database, Some(id));
    command.args(arguments);
    output(command).lines().map(str::to_string).collect()
}

/// The whole database as SQL, but for what `pg_dump` makes up anew each time.
pub(crate) fn dump(database: &str) -> String {
    let mut command = program("pg_dump");
    command.args(["-d", database]);
    let is_random = |line: &&str| line.starts_with("\\restrict") || line.starts_with("\\unrestrict");
    output(command).lines().filter(|line| !is_random(line)).collect::<Vec<_>>().join("\n")
}
