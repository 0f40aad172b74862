//! The journal read: the whole chain followed, compared with an anchor, and shortened from its front.
//!
//! It must not pass over an entry that is not as it was written, nor remove one before the whole chain was seen to hold.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use serde::Serialize;

use super::entry::{Anchor, CHECKPOINT, Entry, NOTHING, Text, parse, seal};
use super::{Journal, MAX_ENTRY, broken};
use crate::disk::sync_directory;
use crate::error::{Error, Result};
use crate::time::Moment;

/// What a journal that holds has.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainCheck {
    /// The first entry that is there.
    pub first: u64,
    /// The last entry's number and hash.
    pub anchor: Anchor,
    /// How many entries came after the anchor that it was compared with.
    pub since_anchor: Option<u64>,
}

impl Journal {
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
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<Option<ChainCheck>> {
        let (mut at_anchor, mut records) = (None, Vec::new());
        let found = self.each(|entry| {
            if let (Some(run), Some(hash)) = (&entry.run, entry.payload.0["events"].as_str()) {
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
                        .with_hint("compare it with an anchor that was taken since it was pruned"));
                }
            }
        }
        Ok(found.map(|(first, head)| ChainCheck {
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
