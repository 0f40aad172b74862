//! The journal: what changed a fleet, as a chain of entries of which each has the hash of the one before it.
//!
//! It must not say more than is durable: an entry is on the disk before whatever it reports is called done. It can't keep
//! whoever may write the file from writing a new one; an anchor kept elsewhere shows that.

pub(crate) mod runs;

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::backup::Moment;
use crate::disk::{make_private, sync_directory};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::hexadecimal;

/// What is hashed before an entry's text, so that its hash is no other thing's.
const DOMAIN: &str = "tenantry journal 1\0";
/// The hash before the first entry.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What comes between an entry's text and its hash.
const BEFORE_HASH: &str = ",\"hash\":\"";
/// What entries that were pruned are summed up by.
const CHECKPOINT: &str = "checkpoint";
const FILE: &str = "journal.jsonl";
/// The longest entry that is read back.
const MAX_ENTRY: u64 = 16 << 20;

/// A fleet's journal, in a folder.
#[derive(Clone, Debug)]
pub struct Journal {
    directory: PathBuf,
    actor: String,
}

/// One entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, counted from 1 without a gap.
    pub seq: u64,
    /// When it was written.
    pub at: Moment,
    /// Who ran the command.
    pub actor: String,
    /// What it is about: `run_started`, `run_finished`, `run_completed`, `spares`, `checkpoint`, `torn`.
    pub kind: String,
    /// The command.
    pub command: String,
    /// The project, where it is about one alone.
    pub project: Option<String>,
    /// The run.
    pub run: Option<String>,
    /// Whatever else belongs to it.
    pub payload: Value,
    /// The hash of the entry before it.
    pub previous: String,
    /// Its own hash.
    pub hash: String,
}

/// What an entry is to say.
#[derive(Clone, Debug)]
pub struct Said<'a> {
    /// What it is about.
    pub kind: &'a str,
    /// The command.
    pub command: &'a str,
    /// The project, where it is about one alone.
    pub project: Option<&'a str>,
    /// The run.
    pub run: Option<&'a str>,
    /// Whatever else belongs to it.
    pub payload: Value,
}

#[derive(Serialize)]
struct Text<'a> {
    seq: u64,
    at: Moment,
    actor: &'a str,
    kind: &'a str,
    command: &'a str,
    project: Option<&'a str>,
    run: Option<&'a str>,
    payload: &'a Value,
    previous: &'a str,
}

/// How many entries there are, and the hash of the last: to be kept where whoever writes the journal can't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The last entry's number.
    pub count: u64,
    /// The last entry's hash.
    pub head: String,
}

impl Entry {
    /// The hash that the next entry goes on from.
    fn link(&self) -> &str {
        match self.payload["hash"].as_str() {
            Some(hash) if self.kind == CHECKPOINT => hash,
            _ => &self.hash,
        }
    }
}

impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.count, self.head)
    }
}

impl std::str::FromStr for Anchor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (count, head) = text.trim().split_once(':')?;
            let is_hash = head.len() == 64 && head.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_hash.then_some(Self { count: count.parse().ok()?, head: head.into() })
        };
        parse().ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is no anchor"))
                .hint("it is what tenantry audit anchor printed")
        })
    }
}

/// What a journal that holds has.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The first entry that is there.
    pub first: u64,
    /// The last entry's number and hash.
    pub anchor: Anchor,
    /// How many entries came after the anchor that it was compared with.
    pub since_anchor: Option<u64>,
}

impl Journal {
    /// The journal in a folder, which is made when something is first written.
    pub fn new(directory: impl Into<PathBuf>, actor: impl Into<String>) -> Self {
        Self { directory: directory.into(), actor: actor.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.directory
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Writes an entry, durably. Errors where that is not possible: then nothing was written.
    pub fn append(&self, said: &Said<'_>) -> Result<Entry> {
        make_private(&self.directory)?;
        let path = self.path();
        let is_new = !path.exists();
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let mut file = self.locked(true).map_err(failed)?;
        let (mut last, torn) = self.tail(&mut file)?;
        if torn > 0 {
            let said = Said {
                kind: "torn",
                command: "",
                project: None,
                run: None,
                payload: serde_json::json!({ "bytes": torn }),
            };
            last = Some(self.write(&mut file, last.as_ref(), &said)?);
        }
        let entry = self.write(&mut file, last.as_ref(), said)?;
        if is_new {
            sync_directory(&self.directory)?;
        }
        Ok(entry)
    }

    /// The journal's file, which nobody else writes or replaces as long as it is open.
    fn locked(&self, create: bool) -> std::io::Result<File> {
        let path = self.path();
        loop {
            let file = OpenOptions::new().read(true).append(true).create(create).mode(0o600).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            // While this waited, pruning may have put another one in its place.
            let (held, there) = (file.metadata()?, std::fs::metadata(&path));
            if there.is_ok_and(|there| (held.dev(), held.ino()) == (there.dev(), there.ino())) {
                return Ok(file);
            }
        }
    }

    fn write(&self, file: &mut File, last: Option<&Entry>, said: &Said<'_>) -> Result<Entry> {
        let path = self.path();
        let failed = |error: std::io::Error| {
            Error::io("write", &path, error)
                .hint("without a journal nothing is changed: make room, or name another [journal] dir")
        };
        let previous = last.map_or(NOTHING, Entry::link);
        let text = Text {
            seq: last.map_or(1, |last| last.seq + 1),
            at: Moment::now(),
            actor: &self.actor,
            kind: said.kind,
            command: said.command,
            project: said.project,
            run: said.run,
            payload: &said.payload,
            previous,
        };
        let line = seal(&text)?;
        let end = file.metadata().map_err(failed)?.len();
        let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Half a line helps nobody; where it can't be cut off, the next entry says that it was torn.
            let _ = file.set_len(end);
            return Err(failed(error));
        }
        parse(line.trim_end())
    }

    /// The last whole entry; what a killed process left of one after it is cut off, and how long that was is said.
    fn tail(&self, file: &mut File) -> Result<(Option<Entry>, u64)> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("read", &path, error);
        let length = file.metadata().map_err(failed)?.len();
        let mut size = 4096_u64;
        loop {
            let from = length.saturating_sub(size);
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            let mut bytes = Vec::new();
            file.take(size).read_to_end(&mut bytes).map_err(failed)?;
            let end = bytes.iter().rposition(|&byte| byte == b'\n');
            let start = end.and_then(|end| bytes[..end].iter().rposition(|&byte| byte == b'\n'));
            let whole = match (start, end) {
                (Some(start), Some(end)) => Some(&bytes[start + 1..end]),
                (None, Some(end)) if from == 0 => Some(&bytes[..end]),
                (None, None) if from == 0 => None,
                _ if size > MAX_ENTRY => return Err(broken(&path, "its last entry has no beginning")),
                _ => {
                    size *= 4;
                    continue;
                }
            };
            let torn = bytes.len() as u64 - end.map_or(0, |end| end as u64 + 1);
            let last = whole.map(|line| {
                std::str::from_utf8(line).map_err(|_| broken(&path, "its last entry is no text"))
            });
            let last = last.transpose()?.map(parse).transpose().map_err(|error| {
                broken(&path, &format!("its last entry is not as it was written: {}", error.summary()))
            })?;
            if torn > 0 {
                file.set_len(length - torn).map_err(failed)?;
            }
            return Ok((last, torn));
        }
    }

    /// Gives every entry to `visit`, in order. Errors at the first that is not as it was written, or not the one that comes
    /// next.
    pub fn each(&self, mut visit: impl FnMut(Entry)) -> Result<Option<(u64, Anchor)>> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("read", &path, error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut reader = BufReader::new(file);
        let mut last: Option<Entry> = None;
        let mut first = 0;
        for number in 1_u32.. {
            let mut line = Vec::new();
            reader.by_ref().take(MAX_ENTRY).read_until(b'\n', &mut line).map_err(failed)?;
            if line.is_empty() {
                break;
            }
            let wrong = |what: &str| Err(broken(&path, what).at(&path, number));
            let Some(text) = std::str::from_utf8(&line).ok().and_then(|text| text.strip_suffix('\n')) else {
                return wrong("the last entry is not whole");
            };
            let entry = match parse(text) {
                Ok(entry) => entry,
                Err(error) => {
                    return wrong(&format!("an entry is not as it was written: {}", error.message()));
                }
            };
            match &last {
                // What was pruned is summed up in a checkpoint.
                Some(_) if entry.kind == CHECKPOINT => {
                    return wrong(&format!(
                        "entry {} is a checkpoint, which only the first can be",
                        entry.seq
                    ));
                }
                None if entry.seq != 1 && entry.kind != CHECKPOINT => {
                    return wrong(&format!("it begins with entry {}: those before it are gone", entry.seq));
                }
                None if entry.previous != NOTHING => {
                    return wrong(&format!("entry {} says that there was one before it", entry.seq));
                }
                Some(last) if entry.seq != last.seq + 1 => {
                    return wrong(&format!("entry {} follows entry {}", entry.seq, last.seq));
                }
                Some(last) if entry.previous != last.link() => {
                    return wrong(&format!("entry {} does not go on from entry {}", entry.seq, last.seq));
                }
                None => first = entry.seq,
                Some(_) => {}
            }
            last = Some(entry.clone());
            visit(entry);
        }
        Ok(last.map(|last| (first, Anchor { count: last.seq, head: last.link().to_string() })))
    }

    /// Follows the whole chain, and compares it with an anchor where one is given.
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<Option<Verified>> {
        let (mut at_anchor, mut records) = (None, Vec::new());
        let found = self.each(|entry| {
            if let (Some(run), Some(hash)) = (&entry.run, entry.payload["events"].as_str()) {
                records.push((run.clone(), hash.to_string()));
            }
            if anchor.is_some_and(|anchor| anchor.count == entry.seq) {
                at_anchor = Some(entry.link().to_string());
            }
        })?;
        let path = self.path();
        for (run, hash) in records {
            if self.hash_of_events(&run)?.as_ref() != Some(&hash) {
                let message = format!("the events of the run {run} are not those that it ended with");
                return Err(broken(&self.directory, &message));
            }
        }
        let count = found.as_ref().map_or(0, |(_, head)| head.count);
        if let Some(anchor) = anchor {
            let first = found.as_ref().map_or(0, |(first, _)| *first);
            match at_anchor {
                Some(hash) if hash == anchor.head => {}
                Some(_) => {
                    return Err(broken(
                        &path,
                        &format!("entry {} is not the one of the anchor: it was rewritten", anchor.count),
                    ));
                }
                None if anchor.count > count => {
                    let message = format!(
                        "it ends with entry {count}, and the anchor has {}: it was cut off",
                        anchor.count
                    );
                    return Err(broken(&path, &message));
                }
                None => {
                    let message =
                        format!("it begins with entry {first}, after the anchor's {}", anchor.count);
                    return Err(broken(&path, &message)
                        .hint("compare it with an anchor that was taken since it was pruned"));
                }
            }
        }
        Ok(found.map(|(first, head)| Verified {
            first,
            since_anchor: anchor.map(|it| head.count - it.count),
            anchor: head,
        }))
    }

    /// Removes entries that are older, but for the last, and leaves a checkpoint with the hash that the rest goes on from.
    /// Gives how many. The chain has to hold.
    pub fn prune(&self, older_than: std::time::Duration) -> Result<u64> {
        let path = self.path();
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let _lock = match self.locked(false) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed(error)),
        };
        let mut entries = Vec::new();
        self.each(|entry| entries.push(entry))?;
        let old = entries.iter().take_while(|entry| entry.at.age() > older_than).count();
        let gone = old.min(entries.len().saturating_sub(1));
        // A checkpoint alone is no reason to write another.
        if gone == 0 || (gone == 1 && entries[0].kind == CHECKPOINT) {
            return Ok(0);
        }
        // It has the number of the last one that goes, and says which hash the rest goes on from.
        let last = &entries[gone - 1];
        let mut text = seal(&Text {
            seq: last.seq,
            at: Moment::now(),
            actor: &self.actor,
            kind: CHECKPOINT,
            command: "audit prune",
            project: None,
            run: None,
            payload: &serde_json::json!({ "hash": last.link() }),
            previous: NOTHING,
        })?;
        let rest = std::fs::read_to_string(&path).map_err(failed)?;
        for line in rest.lines().skip(gone) {
            text.push_str(line);
            text.push('\n');
        }
        let temporary = path.with_extension("new");
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(failed)?;
        sync_directory(&self.directory)?;
        let ended = entries[..gone].iter().filter(|entry| entry.kind != "run_started");
        ended.filter_map(|entry| entry.run.as_ref()).try_for_each(|run| self.forget(run))?;
        Ok(gone as u64)
    }
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot write an entry").caused_by(error)
}

/// An entry's line.
fn seal(text: &Text<'_>) -> Result<String> {
    let text = serde_json::to_string(text).map_err(unwritable)?;
    let text = text.strip_suffix('}').unwrap_or(&text);
    Ok(format!("{text}{BEFORE_HASH}{}\"}}\n", hash(text)))
}

fn hash(text: &str) -> String {
    hexadecimal(&Sha256::new().chain_update(DOMAIN).chain_update(text).finalize())
}

/// Reads a line, and sees that its hash is that of its text.
fn parse(line: &str) -> Result<Entry> {
    let wrong = |what: &str| Error::new(ErrorKind::CheckFailed, what.to_string());
    let (text, _) = line.rsplit_once(BEFORE_HASH).ok_or_else(|| wrong("it has no hash"))?;
    let entry: Entry =
        serde_json::from_str(line).map_err(|error| wrong("it can't be read").caused_by(error))?;
    if entry.hash != hash(text) || !line.ends_with(&format!("{BEFORE_HASH}{}\"}}", entry.hash)) {
        return Err(wrong(&format!("entry {} has not the hash of what it says", entry.seq)));
    }
    Ok(entry)
}

fn broken(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::CheckFailed, format!("the journal does not hold: {what}"))
        .at(path, None)
        .hint("keep the file as it is for whoever looks into it, and compare it with a copy")
}
