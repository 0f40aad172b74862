//! Reads and verifies the journal's chain, compares it with an anchor, and prunes old entries.
//!
//! Prunes only after the whole chain is verified.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::entry::{Anchor, CHECKPOINT, Entry, NO_HASH, UnsealedEntry, parse, seal};
use super::{Journal, broken};
use crate::error::Result;
use crate::time::Timestamp;

/// The result of verifying a journal that is intact.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainCheck {
    /// The number of the first entry.
    pub first: u64,
    /// The last entry's number and hash.
    pub anchor: Anchor,
    /// The number of entries after the anchor that the journal was compared with.
    pub since_anchor: Option<u64>,
}

impl Journal {
    /// Passes every entry to `visit`, in order. Returns the number of the first entry and the anchor of the last;
    /// `None` without a journal.
    ///
    /// Returns `CheckFailed` at the first entry that is damaged or does not follow the one before it.
    pub fn for_each_entry(&self, mut visit: impl FnMut(Entry)) -> Result<Option<(u64, Anchor)>> {
        let location = self.location();
        let mut last: Option<Entry> = None;
        let mut first = 0;
        self.storage.for_each_line(&mut |number, line, is_complete| {
            let damaged = |what: &str| Err(broken(&location, what).at(&location, number));
            let Some(text) = std::str::from_utf8(line).ok().filter(|_| is_complete) else {
                return damaged("the last entry is incomplete");
            };
            let entry = match parse(text) {
                Ok(entry) => entry,
                Err(error) => return damaged(&format!("an entry is invalid: {}", error.message())),
            };
            if let Some(fault) = fault(last.as_ref(), &entry) {
                return damaged(&fault);
            }
            if last.is_none() {
                first = entry.seq;
            }
            last = Some(entry.clone());
            visit(entry);
            Ok(())
        })?;
        Ok(last.map(|last| (first, Anchor { count: last.seq, head: last.chain_hash().to_string() })))
    }

    /// Verifies the whole chain and the records of its runs, and compares the chain with an anchor if one is given.
    ///
    /// Returns `None` without a journal, and `CheckFailed` if the journal is damaged.
    pub fn verify(&self, anchor: Option<&Anchor>) -> Result<Option<ChainCheck>> {
        let (mut at_anchor, mut records) = (None, Vec::new());
        let mut last_of_run = BTreeMap::new();
        let chain = self.for_each_entry(|entry| {
            if let Some(run) = &entry.run {
                last_of_run.insert(run.clone(), entry.seq);
            }
            if let (Some(run), Some(hash)) = (&entry.run, entry.payload.0["events"].as_str()) {
                let size = entry.payload.0["events_bytes"].as_u64();
                records.push((run.clone(), entry.seq, size, hash.to_string()));
            }
            if anchor.is_some_and(|anchor| anchor.count == entry.seq) {
                at_anchor = Some(entry.chain_hash().to_string());
            }
        })?;
        let location = self.location();
        for (run, entry, size, hash) in records {
            // A run that was resumed after this entry has more events than the entry covers.
            let is_growing = last_of_run.get(&run) != Some(&entry) || self.is_open(&run)?;
            let size = size.filter(|_| is_growing);
            if self.hash_of_events(&run, size)?.is_none_or(|(_, found)| found != hash) {
                let message = format!("the recorded events of run {run} were changed");
                return Err(broken(&location, &message));
            }
        }
        let count = chain.as_ref().map_or(0, |(_, head)| head.count);
        if let Some(anchor) = anchor {
            let first = chain.as_ref().map_or(0, |(first, _)| *first);
            match at_anchor {
                Some(hash) if hash == anchor.head => {}
                Some(_) => {
                    return Err(broken(
                        &location,
                        &format!("entry {} was rewritten: it differs from the anchor", anchor.count),
                    ));
                }
                None if anchor.count > count => {
                    let message = format!(
                        "it was cut off: it ends with entry {count}, the anchor is entry {}",
                        anchor.count
                    );
                    return Err(broken(&location, &message));
                }
                None => {
                    let message =
                        format!("it begins with entry {first}, after the anchor at {}", anchor.count);
                    return Err(broken(&location, &message)
                        .with_hint("use an anchor that was taken after the last prune"));
                }
            }
        }
        Ok(chain.map(|(first, head)| ChainCheck {
            first,
            since_anchor: anchor.map(|it| head.count - it.count),
            anchor: head,
        }))
    }

    /// Replaces entries older than `older_than` by a checkpoint with the hash of the last one removed, and removes the
    /// records of their runs. Keeps the last entry. Returns the number of removed entries.
    ///
    /// Returns `CheckFailed` if the chain is damaged.
    pub fn prune(&self, older_than: std::time::Duration) -> Result<u64> {
        let mut entries = Vec::new();
        let pruned = self.storage.replace_first(&mut |lines| {
            entries.clear();
            self.for_each_entry(|entry| entries.push(entry))?;
            let old = entries.iter().take_while(|entry| entry.at.age() > older_than).count();
            let count = old.min(lines.len().saturating_sub(1));
            // Replacing only a checkpoint by another checkpoint is useless.
            if count == 0 || (count == 1 && entries[0].kind == CHECKPOINT) {
                return Ok(None);
            }
            // The checkpoint has the number and the hash of the last pruned entry, so that the next entry still follows.
            let last = &entries[count - 1];
            let checkpoint = seal(&UnsealedEntry {
                seq: last.seq,
                at: Timestamp::now(),
                actor: &self.actor,
                kind: CHECKPOINT,
                command: "audit prune",
                project: None,
                run: None,
                payload: &serde_json::json!({ "hash": last.chain_hash() }),
                previous: NO_HASH,
            })?;
            Ok(Some((count, checkpoint)))
        })?;
        let [ended, kept] = [&entries[..pruned], &entries[pruned..]].map(|entries| {
            entries.iter().filter_map(|entry| Some((entry.run.as_ref()?, entry.kind.as_str())))
        });
        let is_ended = |run: &String| {
            let last = entries.iter().rfind(|entry| entry.run.as_ref() == Some(run));
            last.is_some_and(|entry| matches!(entry.kind.as_str(), "run_finished" | "killed_run"))
        };
        let kept: BTreeSet<&String> = kept.map(|(run, _)| run).collect();
        ended
            .filter(|(run, _)| is_ended(run) && !kept.contains(run))
            .try_for_each(|(run, _)| self.remove_events(run))?;
        Ok(pruned as u64)
    }
}

/// Why an entry cannot follow the last one, if it cannot.
fn fault(last: Option<&Entry>, entry: &Entry) -> Option<String> {
    let seq = entry.seq;
    match last {
        // A checkpoint replaces pruned entries, so it can only be the first.
        Some(_) if entry.kind == CHECKPOINT => {
            Some(format!("entry {seq} is a checkpoint, but is not the first entry"))
        }
        None if seq != 1 && entry.kind != CHECKPOINT => {
            Some(format!("it begins with entry {seq}; earlier ones are missing"))
        }
        None if entry.previous != NO_HASH => {
            Some(format!("entry {seq} is the first, but has a previous hash"))
        }
        Some(last) if seq != last.seq + 1 => Some(format!("entry {seq} follows entry {}", last.seq)),
        Some(last) if entry.previous != last.chain_hash() => {
            Some(format!("entry {seq} lacks the hash of entry {}", last.seq))
        }
        _ => None,
    }
}
