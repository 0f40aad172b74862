//! What Postgres itself takes: the same SQL, one batch and one transaction per schema, on kept connections.
//!
//!     postgres run URL CONNECTIONS SCRIPT FIRST LAST   runs SCRIPT in each schema project_FIRST to project_LAST
//!     postgres create URL CONNECTIONS SCRIPT FIRST LAST   makes those schemas by SCRIPT
//!     postgres versions URL                            reads every schema's newest version in one loop on the server

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicUsize, Ordering};

use pq_sys::{ConnStatusType, ExecStatusType, PGconn, PQclear, PQconnectdb, PQerrorMessage, PQexec, PQfinish};
use pq_sys::{PQresultStatus, PQstatus};

struct Connection(*mut PGconn);

impl Connection {
    fn open(url: &str) -> Self {
        let url = CString::new(url).expect("no NUL");
        let connection = Self(unsafe { PQconnectdb(url.as_ptr()) });
        assert_eq!(unsafe { PQstatus(connection.0) }, ConnStatusType::CONNECTION_OK, "{}", connection.message());
        connection
    }

    fn message(&self) -> String {
        unsafe { CStr::from_ptr(PQerrorMessage(self.0)) }.to_string_lossy().into_owned()
    }

    fn execute(&self, sql: &str) {
        let sql = CString::new(sql).expect("no NUL");
        let result = unsafe { PQexec(self.0, sql.as_ptr()) };
        let status = unsafe { PQresultStatus(result) };
        let done = matches!(status, ExecStatusType::PGRES_COMMAND_OK | ExecStatusType::PGRES_TUPLES_OK);
        assert!(done, "{}", self.message());
        unsafe { PQclear(result) };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        unsafe { PQfinish(self.0) };
    }
}

/// A loop on the server over the ledgers of all schemas; a subtransaction for every few lets go of their locks.
const VERSIONS: &str = "DO $$
DECLARE found text; names text[]; chunk text[]; version text;
BEGIN
    SELECT array_agg(nspname) INTO names FROM pg_namespace WHERE nspname LIKE 'project\\_%';
    FOR start IN 1 .. cardinality(names) BY 500 LOOP
        BEGIN
            FOREACH found IN ARRAY names[start : start + 499] LOOP
                EXECUTE format('SELECT max(version) FROM %I.__diesel_schema_migrations', found) INTO version;
                chunk := chunk || version;
            END LOOP;
            RAISE EXCEPTION 'enough';
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$";

fn each(range: std::ops::RangeInclusive<usize>, url: &str, connections: usize, sql: impl Fn(usize) -> String + Sync) {
    let next = AtomicUsize::new(*range.start());
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let connection = Connection::open(url);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > *range.end() {
                        return;
                    }
                    connection.execute(&sql(number));
                }
            });
        }
    });
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["versions", url] => Connection::open(url).execute(VERSIONS),
        [what @ ("run" | "create"), url, connections, script, first, last] => {
            let script = std::fs::read_to_string(script).expect("the script");
            let number = |text: &str| text.parse::<usize>().expect("a number");
            each(number(first)..=number(last), url, number(connections), |number| {
                let create = if *what == "create" { format!("CREATE SCHEMA project_{number};") } else { String::new() };
                format!("BEGIN; {create} SET LOCAL search_path = project_{number}; {script}; COMMIT")
            });
        }
        _ => panic!("see the head of bench/raw/src/bin/postgres.rs"),
    }
}
