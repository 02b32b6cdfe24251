//! The types of values. Each knows the memory that it takes, so that a limit can be checked.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

use super::bytes::Bytes;
use super::table::Table;

#[derive(Clone, Debug)]
pub(crate) enum Value {
    String(Bytes),
    List(Box<List>),
    Set(Box<Set>),
    Hash(Box<Hash>),
    SortedSet(Box<SortedSet>),
}

impl Value {
    /// The name of the type, for the command TYPE.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::List(_) => "list",
            Value::Set(_) => "set",
            Value::Hash(_) => "hash",
            Value::SortedSet(_) => "zset",
        }
    }

    pub(crate) fn memory(&self) -> usize {
        match self {
            Value::String(bytes) => bytes.memory(),
            Value::List(list) => list.memory(),
            Value::Set(set) => set.memory(),
            Value::Hash(hash) => hash.memory(),
            Value::SortedSet(set) => set.memory(),
        }
    }
}

/// A type of value. A key with an empty collection does not exist.
pub(crate) trait Kind: Sized {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn empty() -> Value;
    fn is_empty(&self) -> bool;
    fn memory(&self) -> usize;
}

macro_rules! kind {
    ($type:ident, $empty:expr) => {
        impl Kind for $type {
            fn of(value: &Value) -> Option<&$type> {
                if let Value::$type(this) = value { Some(this) } else { None }
            }

            fn of_mut(value: &mut Value) -> Option<&mut $type> {
                if let Value::$type(this) = value { Some(this) } else { None }
            }

            fn empty() -> Value {
                Value::$type($empty)
            }

            fn is_empty(&self) -> bool {
                self.len() == 0
            }

            fn memory(&self) -> usize {
                self.memory
            }
        }
    };
}

kind!(List, Box::default());
kind!(Set, Box::default());
kind!(Hash, Box::default());
kind!(SortedSet, Box::default());

/// A list. Elements are next to each other, and are found by their index at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    elements: VecDeque<Bytes>,
    memory: usize,
}

impl List {
    pub(crate) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn elements(&self) -> &VecDeque<Bytes> {
        &self.elements
    }

    pub(crate) fn push(&mut self, at_front: bool, element: &[u8]) {
        let element = Bytes::from(element);
        self.memory += element.memory();
        match at_front {
            true => self.elements.push_front(element),
            false => self.elements.push_back(element),
        }
    }

    pub(crate) fn pop(&mut self, at_front: bool) -> Option<Bytes> {
        let element = if at_front { self.elements.pop_front() } else { self.elements.pop_back() }?;
        self.memory -= element.memory();
        if self.elements.capacity() > 1024 && self.elements.len() * 4 < self.elements.capacity() {
            self.elements.shrink_to(2 * self.elements.len());
        }
        Some(element)
    }

    /// Replaces the element at an index, if there is one. Returns whether there is.
    pub(crate) fn set(&mut self, index: usize, element: &[u8]) -> bool {
        let Some(place) = self.elements.get_mut(index) else { return false };
        self.memory -= place.memory();
        place.assign(element);
        self.memory += place.memory();
        true
    }

    /// Keeps only the elements for which `keep` returns true. It gets them from the front or from
    /// the back.
    pub(crate) fn retain(&mut self, from_back: bool, mut keep: impl FnMut(&[u8]) -> bool) {
        let mut kept = VecDeque::with_capacity(self.elements.len());
        while let Some(element) = if from_back { self.elements.pop_back() } else { self.elements.pop_front() }
        {
            if !keep(&element) {
                self.memory -= element.memory();
            } else if from_back {
                kept.push_front(element);
            } else {
                kept.push_back(element);
            }
        }
        self.elements = kept;
    }
}

/// A set of strings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Set {
    members: Table<()>,
    memory: usize,
}

impl Set {
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn members(&self) -> &Table<()> {
        &self.members
    }

    /// Returns whether the member is new.
    pub(crate) fn insert(&mut self, member: &[u8]) -> bool {
        let is_new = !self.members.contains(member);
        if is_new {
            let member = Bytes::from(member);
            self.memory += member.memory() + Table::<()>::OVERHEAD;
            self.members.insert_new(member, ());
        }
        is_new
    }

    /// Returns whether there was such a member.
    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        let index = self.members.find(member);
        index.map(|index| self.remove_at(index)).is_some()
    }

    pub(crate) fn remove_at(&mut self, index: usize) -> Bytes {
        let (member, ()) = self.members.remove_at(index);
        self.memory -= member.memory() + Table::<()>::OVERHEAD;
        member
    }
}

/// A map of strings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hash {
    fields: Table<Bytes>,
    memory: usize,
}

impl Hash {
    pub(crate) fn len(&self) -> usize {
        self.fields.len()
    }

    pub(crate) fn fields(&self) -> &Table<Bytes> {
        &self.fields
    }

    /// Returns whether the field is new.
    pub(crate) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let Some(place) = self.fields.get_mut(field) {
            self.memory -= place.memory();
            place.assign(value);
            self.memory += place.memory();
            return false;
        }
        let (field, value) = (Bytes::from(field), Bytes::from(value));
        self.memory += field.memory() + value.memory() + Table::<Bytes>::OVERHEAD;
        self.fields.insert_new(field, value);
        true
    }

    /// Returns whether there was such a field.
    pub(crate) fn remove(&mut self, field: &[u8]) -> bool {
        let removed = self.fields.remove(field);
        removed
            .map(|(field, value)| {
                self.memory -= field.memory() + value.memory() + Table::<Bytes>::OVERHEAD;
            })
            .is_some()
    }
}

/// A score, with the order of numbers. It is never NaN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Score(pub(crate) f64);

impl PartialEq for Score {
    fn eq(&self, other: &Score) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

/// A set of strings with scores, in the order of the scores and then of the strings.
///
/// A rank is found by counting, so it costs time for as many members.
#[derive(Clone, Debug, Default)]
pub(crate) struct SortedSet {
    scores: Table<f64>,
    order: BTreeSet<(Score, Bytes)>,
    memory: usize,
}

impl SortedSet {
    pub(crate) fn len(&self) -> usize {
        self.scores.len()
    }

    pub(crate) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// The members in order.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&Bytes, f64)> + DoubleEndedIterator {
        self.order.iter().map(|(score, member)| (member, score.0))
    }

    /// The number of members before this one, or after it.
    pub(crate) fn rank(&self, member: &[u8], is_reverse: bool) -> Option<usize> {
        let this = (Score(self.score(member)?), Bytes::from(member));
        let before = self.order.range(..this).count();
        Some(if is_reverse { self.len() - 1 - before } else { before })
    }

    /// Sets the score of a member, which may be new.
    pub(crate) fn set(&mut self, member: &[u8], score: f64) {
        // There is no negative zero, as in sorted sets of Redis that are small.
        let score = score + 0.0;
        let key = Bytes::from(member);
        match self.scores.get_mut(member) {
            Some(old) => {
                let old = std::mem::replace(old, score);
                self.order.remove(&(Score(old), key.clone()));
            }
            None => {
                self.memory += memory_of_member(&key);
                self.scores.insert_new(key.clone(), score);
            }
        }
        self.order.insert((Score(score), key));
    }

    /// Returns whether there was such a member.
    pub(crate) fn remove(&mut self, member: &[u8]) -> bool {
        let Some((key, score)) = self.scores.remove(member) else { return false };
        self.memory -= memory_of_member(&key);
        self.order.remove(&(Score(score), key))
    }

    /// Removes the first or the last member.
    pub(crate) fn pop(&mut self, first: bool) -> Option<(Bytes, f64)> {
        let (score, member) = if first { self.order.pop_first() } else { self.order.pop_last() }?;
        self.scores.remove(&member);
        self.memory -= memory_of_member(&member);
        Some((member, score.0))
    }
}

fn memory_of_member(member: &Bytes) -> usize {
    2 * member.memory() + Table::<f64>::OVERHEAD + 16
}
