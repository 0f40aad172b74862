//! The SQLite side of `scripts/bench`: the same SQL, one transaction per database, on several threads, nothing else.
//!
//!     raw upgrade DIR THREADS SCRIPT   runs SCRIPT in one immediate transaction on every *.db of DIR
//!     raw version DIR THREADS          opens every *.db of DIR read-only and reads its newest version
//!     raw replay  DIR THREADS SCRIPT N creates N databases in DIR by running SCRIPT in one transaction
//!     raw backup  DIR THREADS TO       copies every *.db of DIR into TO with SQLite's backup API, all pages at once
//!     raw clone   DIR FILE N           creates N copies of FILE in DIR, as a fleet

use std::ffi::{CStr, CString, c_int};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use libsqlite3_sys as ffi;

struct Database(*mut ffi::sqlite3);

impl Database {
    fn open(path: &Path, flags: c_int) -> Self {
        let name = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
        let mut handle = null_mut();
        let code = unsafe { ffi::sqlite3_open_v2(name.as_ptr(), &mut handle, flags | ffi::SQLITE_OPEN_NOMUTEX, null()) };
        assert_eq!(code, ffi::SQLITE_OK, "open {}", path.display());
        unsafe { ffi::sqlite3_busy_timeout(handle, 5_000) };
        Self(handle)
    }

    fn execute(&self, sql: &CStr) {
        let code = unsafe { ffi::sqlite3_exec(self.0, sql.as_ptr(), None, null_mut(), null_mut()) };
        let message = unsafe { CStr::from_ptr(ffi::sqlite3_errmsg(self.0)) };
        assert_eq!(code, ffi::SQLITE_OK, "{message:?}");
    }

    fn copy_to(&self, target: &Self) {
        unsafe {
            let backup = ffi::sqlite3_backup_init(target.0, c"main".as_ptr(), self.0, c"main".as_ptr());
            assert!(!backup.is_null());
            assert_eq!(ffi::sqlite3_backup_step(backup, -1), ffi::SQLITE_DONE);
            assert_eq!(ffi::sqlite3_backup_finish(backup), ffi::SQLITE_OK);
        }
    }

    fn newest_version(&self) -> usize {
        let sql = c"SELECT version FROM __diesel_schema_migrations";
        let mut statement = null_mut();
        let mut length = 0;
        unsafe {
            assert_eq!(ffi::sqlite3_prepare_v2(self.0, sql.as_ptr(), -1, &mut statement, null_mut()), ffi::SQLITE_OK);
            while ffi::sqlite3_step(statement) == ffi::SQLITE_ROW {
                length = length.max(CStr::from_ptr(ffi::sqlite3_column_text(statement, 0).cast()).to_bytes().len());
            }
            ffi::sqlite3_finalize(statement);
        }
        length
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        unsafe { ffi::sqlite3_close(self.0) };
    }
}

fn each<T: Sync>(items: &[T], threads: usize, work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

fn databases(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("read the folder");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("read the folder").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "db"));
    paths.sort();
    paths
}

fn script(path: &str) -> CString {
    let sql = std::fs::read_to_string(path).expect("read the script");
    CString::new(format!("BEGIN IMMEDIATE;\n{sql}\nCOMMIT;")).expect("no NUL")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<usize>().expect("not a number");
    let read_write = ffi::SQLITE_OPEN_READWRITE;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["upgrade", directory, _, file] => {
            let sql = script(file);
            let work = |path: &PathBuf| Database::open(path, read_write).execute(&sql);
            each(&databases(directory.as_ref()), number(&arguments[2]), work);
        }
        ["version", directory, _] => {
            let work = |path: &PathBuf| {
                std::hint::black_box(Database::open(path, ffi::SQLITE_OPEN_READONLY).newest_version());
            };
            each(&databases(directory.as_ref()), number(&arguments[2]), work);
        }
        ["replay", directory, _, file, _] => {
            let sql = script(file);
            let names: Vec<_> = (0..number(&arguments[4])).map(|id| format!("{directory}/project_r{id}.db")).collect();
            let work = |name: &String| Database::open(name.as_ref(), read_write | ffi::SQLITE_OPEN_CREATE).execute(&sql);
            each(&names, number(&arguments[2]), work);
        }
        ["backup", directory, _, to] => {
            let work = |path: &PathBuf| {
                let name = Path::new(to).join(path.file_name().expect("the path has a file name"));
                let target = Database::open(&name, read_write | ffi::SQLITE_OPEN_CREATE);
                Database::open(path, ffi::SQLITE_OPEN_READONLY).copy_to(&target);
            };
            each(&databases(directory.as_ref()), number(&arguments[2]), work);
        }
        ["clone", directory, file, _] => {
            let image = std::fs::read(file).expect("read the file");
            std::fs::create_dir_all(directory).expect("create the folder");
            for id in 1..=number(&arguments[3]) {
                std::fs::write(format!("{directory}/project_{id}.db"), &image).expect("write the copy");
            }
        }
        _ => panic!("usage: see the comment at the top of bench/raw/src/main.rs"),
    }
}
