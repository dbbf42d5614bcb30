//! Which of the directories that are named make up the journal: told by their heads, whatever their order.
//!
//! | found | decision |
//! |---|---|
//! | none with a head, or heads of a journal, and a witness of another one of this backend that may hold something | refused |
//! | all empty, and as many as `erasure` takes | a new journal |
//! | all empty, and more, fewer, or one that cannot be looked at | refused |
//! | heads of two journals, of another backend or `erasure`, of a newer format; anything else in a directory | refused |
//! | one device twice | refused: one of them is a copy |
//! | head that is damaged, directory that is empty or fails, beside others | an outsider |
//! | head of a device that the newest epoch does not have, or has anew | an outsider: it is out of date |
//! | a witness of a newer epoch | refused |
//! | segments that a head says are there, missing | an outsider |
//! | of the newest epoch's devices fewer than data shards | refused |
//! | as many of them away as could have gone on by themselves, and no witness that they did not | refused |
//! | as many of them away, or other files than a witness knows, as may not be lost, after a life that ended without a word | refused |
//! | else | opened, and goes on without those that are away |

use super::devices::Outsider;
use super::frame::Sequence;
use super::identity::{self, Found, Head, Membership};
use super::segments;
use super::stripe::Spread;
use super::witness::{Holding, Testimony, Witness};
use super::{Directory, JournalError, JournalSettings};

/// A directory that was named.
pub struct JournalDirectory {
    /// Its path, for messages.
    pub name: String,
    /// Or why it cannot be used.
    pub io: Result<Directory, String>,
}

/// A directory that takes part.
pub struct Candidate {
    pub name: String,
    pub io: Directory,
    pub device: u8,
    /// So many segments it has at least.
    pub segments: u16,
}

/// See the module.
pub struct Gathered {
    /// Of the newest epoch; of a new journal, before its first one.
    pub head: Head,
    pub members: Vec<Candidate>,
    pub outsiders: Vec<Outsider>,
    /// What was known of the journal before it is opened.
    witnessed: Option<Testimony>,
}

pub fn gather(
    directories: Vec<JournalDirectory>,
    settings: &JournalSettings,
    witness: &Witness,
) -> Result<Gathered, JournalError> {
    let (mut heads, mut empty, mut outsiders) = (Vec::new(), Vec::new(), Vec::new());
    for JournalDirectory { name, io } in directories {
        match io.map(|io| (identity::look_at(&*io), io)) {
            Ok((Ok(Found::Journal(head)), io)) => heads.push((name, io, head)),
            Ok((Ok(Found::Empty), io)) => empty.push((name, io)),
            Ok((Err(error @ (JournalError::HeadDamaged | JournalError::Io(_))), _)) => {
                outsiders.push((Outsider::new(name, error.to_string()), Some(error)));
            }
            Ok((Err(error), _)) => return Err(error.at(name)),
            Err(why) => outsiders.push((Outsider::new(name, why), None)),
        }
    }
    if heads.is_empty() {
        return found_a_new_one(empty, outsiders, settings, witness);
    }
    let newest = newest_of(&heads, settings)?;
    witness.expect(&settings.backend, Some(&newest.membership.journal))?;
    let emptied = empty
        .into_iter()
        .map(|(name, _)| Outsider::new(name, EMPTY));
    let mut outsiders: Vec<Outsider> = outsiders
        .into_iter()
        .map(|(o, _)| o)
        .chain(emptied)
        .collect();
    let mut members: Vec<Candidate> = Vec::new();
    for (name, io, head) in heads {
        match head.is_member(&newest) {
            true => members.push(candidate(name, io, &head, &members)?),
            false => outsiders.push(Outsider::new(name, OUT_OF_DATE)),
        }
    }
    let gathered = Gathered {
        witnessed: witness.of(&newest.membership.journal),
        head: newest,
        members,
        outsiders,
    };
    gathered.check()?;
    gathered.check_age(witness)?;
    Ok(gathered)
}

pub const EMPTY: &str = "it is empty: what the journal had there is lost";
const OUT_OF_DATE: &str = "it is out of date: the journal went on without it";

impl Outsider {
    fn new(name: String, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { name, why }
    }
}

fn candidate(
    name: String,
    io: Directory,
    head: &Head,
    others: &[Candidate],
) -> Result<Candidate, JournalError> {
    let Head {
        device, segments, ..
    } = *head;
    match others.iter().find(|other| other.device == device) {
        Some(other) => Err(JournalError::Copy {
            other: other.name.clone(),
        }
        .at(name)),
        None => Ok(Candidate {
            name,
            io,
            device,
            segments,
        }),
    }
}

fn found_a_new_one(
    empty: Vec<(String, Directory)>,
    mut failed: Vec<(Outsider, Option<JournalError>)>,
    settings: &JournalSettings,
    witness: &Witness,
) -> Result<Gathered, JournalError> {
    if let Some((outsider, error)) = failed.pop() {
        let error = error.unwrap_or_else(|| JournalError::Unusable(outsider.why.clone()));
        return Err(error.at(outsider.name));
    }
    for (name, io) in &empty {
        if segments::has_any_frame(&**io)? {
            return Err(JournalError::HeadMissing.at(name.clone()));
        }
    }
    let spread = settings.spread;
    if empty.len() != usize::from(spread.devices()) {
        return Err(JournalError::OtherNumber {
            named: empty.len(),
            erasure: spread,
        });
    }
    witness.expect(&settings.backend, None)?;
    let membership = Membership {
        journal: settings.name,
        epoch: 0,
        device_set: 0,
    };
    let head = Head {
        membership,
        spread,
        device: 0,
        segments: 0,
        joined: vec![1; empty.len()],
        openings: Vec::new(),
        segment_bytes: settings.segment_bytes,
        backend: settings.backend.clone(),
        backend_name: settings.backend_name.clone(),
    };
    let member = |((name, io), device)| Candidate {
        name,
        io,
        device,
        segments: 0,
    };
    Ok(Gathered {
        head,
        members: empty.into_iter().zip(0..).map(member).collect(),
        outsiders: Vec::new(),
        witnessed: None,
    })
}

/// All must be of the same journal, and the one that is meant.
fn newest_of(
    heads: &[(String, Directory, Head)],
    settings: &JournalSettings,
) -> Result<Head, JournalError> {
    let newest = heads
        .iter()
        .max_by_key(|(_, _, head)| head.membership.epoch);
    let (_, _, newest) = newest.expect("there is a head");
    for (name, _, head) in heads {
        let refused = |error: JournalError| Err(error.at(name.clone()));
        if head.backend != settings.backend {
            let name = head.backend_name.clone();
            return refused(match name == settings.backend_name {
                true => JournalError::BackendReplaced { path: name },
                false => JournalError::OtherBackend { backend: name },
            });
        }
        if head.spread != settings.spread {
            let (found, erasure) = (head.spread, settings.spread);
            return refused(JournalError::OtherErasure { found, erasure });
        }
        if head.membership.journal != newest.membership.journal {
            return refused(JournalError::AnotherJournal);
        }
    }
    Ok(newest.clone())
}

impl Gathered {
    /// Goes on without a member that fails at opening. An error where it takes one more.
    pub fn lose(&mut self, device: u8, error: JournalError) -> Result<(), JournalError> {
        let at = self
            .members
            .iter()
            .position(|member| member.device == device);
        let lost = self.members.remove(at.expect("it is a member"));
        if self.check().is_err() {
            return Err(error.at(lost.name));
        }
        self.outsiders
            .push(Outsider::new(lost.name, error.to_string()));
        Ok(())
    }

    /// Whether those that are there are enough, and the last that were written to.
    fn check(&self) -> Result<(), JournalError> {
        let Spread { data, .. } = self.head.spread;
        // A new one has nothing that could be lost; it begins with all.
        if self.head.membership.epoch == 0 {
            return match self.members.len() == usize::from(self.head.spread.devices()) {
                true => Ok(()),
                false => Err(JournalError::TooFew(self.report())),
            };
        }
        let (there, needed) = (self.members.len(), usize::from(data));
        let away = self.away();
        if there < needed {
            return Err(JournalError::TooFew(self.report()));
        }
        let is_known = self.witnessed.is_some();
        if away >= needed && (!is_known || self.is_out_of_date()) {
            return Err(JournalError::NotTheLast(self.report()));
        }
        Ok(())
    }

    fn is_out_of_date(&self) -> bool {
        let known = self.witnessed.as_ref();
        known.is_some_and(|known| known.epoch > self.head.membership.epoch)
    }

    fn check_age(&self, witness: &Witness) -> Result<(), JournalError> {
        match &self.witnessed {
            Some(known) if self.is_out_of_date() => Err(JournalError::OutOfDate {
                found: self.head.membership.epoch,
                known: known.epoch,
                forget: witness.forget_command(known),
            }),
            _ => Ok(()),
        }
    }

    /// Copies count as lost where nobody knows exactly how far the journal had come: an old one has a sound end, too.
    pub fn check_files(&self, witness: &Witness) -> Result<(), JournalError> {
        let Some(known) = self.left_without_a_word() else {
            return Ok(());
        };
        let mut copies = Vec::new();
        for member in &self.members {
            let found = segments::first_file(&*member.io).map_err(JournalError::Io)?;
            if known.is_copy(member.device, found) {
                copies.push(member.name.as_str());
            }
        }
        let Spread { parity, .. } = self.head.spread;
        match copies.is_empty() || self.away() + copies.len() <= usize::from(parity) {
            true => Ok(()),
            false => Err(JournalError::Copies {
                copies: copies.join(", "),
                report: self.report(),
                accept: witness.accept_command(known),
            }),
        }
    }

    /// Whether those that are away could tell of batches that nobody else knows of.
    pub fn is_unvouched(&self) -> bool {
        let needed = usize::from(self.head.spread.data);
        self.away() >= needed && self.left_without_a_word().is_some()
    }

    /// What is known of this epoch's journal where its last batches are not among that.
    fn left_without_a_word(&self) -> Option<&Testimony> {
        let known = self.witnessed.as_ref()?;
        let is_of_it = known.epoch == self.head.membership.epoch;
        (is_of_it && known.holding == Holding::Unknown).then_some(known)
    }

    fn away(&self) -> usize {
        self.head
            .membership
            .count()
            .saturating_sub(self.members.len())
    }

    /// All batches up to this one are known to have been on stable storage.
    pub fn known_acknowledged(&self) -> Sequence {
        let known = self.witnessed.as_ref();
        known.map_or(Sequence::default(), |known| known.acknowledged)
    }

    /// Who is there, who is not, and why, for the operator.
    fn report(&self) -> String {
        let there = self
            .members
            .iter()
            .map(|member| format!("{}: there", member.name));
        let others = self
            .outsiders
            .iter()
            .map(|o| format!("{}: {}", o.name, o.why));
        let all: Vec<String> = there.chain(others).collect();
        format!(
            "{} of {} devices are there, {} are needed ({})",
            self.members.len(),
            self.head.membership.count().max(self.head.joined.len()),
            self.head.spread.data,
            all.join("; ")
        )
    }
}

/// Whether some of the devices could go on as the journal without the others' noticing.
pub fn needs_witness(spread: Spread) -> bool {
    spread.devices() > 1 && spread.parity >= spread.data
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
