//! Which directories and files of a tree are still to be transferred. No I/O.

use std::collections::{HashSet, VecDeque};

use crate::protocol::{Entry, Kind, Name, ProtocolError};

/// The maximum number of entries of a tree, and of bytes in their names, so that no server can
/// exhaust the memory of a client.
const MAX_ENTRIES: usize = 1_000_000;
const MAX_BYTES: usize = 128 << 20;

/// A file longer than this name gets a part with a shorter one.
const LONGEST_STEM: usize = 240;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its name on the server.
    pub(crate) name: Name,
    /// Where it is created, below the destination.
    pub(crate) local: Name,
    /// The last component of the file that receives its content.
    pub(crate) part: Vec<u8>,
    pub(crate) length: u64,
    pub(crate) is_executable: bool,
}

/// A tree: its directories are listed before the first file is transferred, so the number of bytes
/// is known.
pub(crate) struct Walk {
    /// The number of bytes of a name that precede its local part.
    prefix: usize,
    directories: VecDeque<Name>,
    files: VecDeque<File>,
    /// The bytes of all files.
    pub(crate) length: u64,
    entries: usize,
    bytes: usize,
}

impl Walk {
    /// The tree `name`. It is created below the destination with the last component of its name;
    /// the root is created as the destination itself.
    pub(crate) fn new(name: Name) -> Walk {
        let prefix = match name.split() {
            Some((parent, _)) if !parent.is_empty() => parent.len() + 1,
            _ => 0,
        };
        let directories = VecDeque::from([name]);
        Walk { prefix, directories, files: VecDeque::new(), length: 0, entries: 0, bytes: 0 }
    }

    /// Where a file or a directory is created, below the destination.
    pub(crate) fn local(&self, name: &Name) -> Name {
        match &name.path()[self.prefix..] {
            [] => Name::default(),
            path => Name::new(path).unwrap_or_default(),
        }
    }

    /// The next directory to list.
    pub(crate) fn directory(&self) -> Option<&Name> {
        self.directories.front()
    }

    /// The next file, once all directories are listed.
    pub(crate) fn file(&self) -> Option<&File> {
        if self.directories.is_empty() { self.files.front() } else { None }
    }

    /// The first directory is a file.
    pub(crate) fn is_file(&mut self, length: u64, is_executable: bool) -> Result<(), ProtocolError> {
        let name = self.directories.pop_front().unwrap_or_default();
        let Some((parent, component)) = name.split() else {
            return Err(ProtocolError("the root is not a file"));
        };
        let (parent, component) = (parent.to_vec(), component.to_vec());
        let parent = if parent.is_empty() { Name::default() } else { Name::new(&parent)? };
        let part = part_name(&component, &HashSet::new());
        self.add_file(&parent, &component, part, length, is_executable)
    }

    /// The first directory has these entries. Returns the names of those that are not transferred.
    pub(crate) fn is_directory(&mut self, entries: Vec<Entry>) -> Result<Vec<Name>, ProtocolError> {
        let directory = self.directories.pop_front().unwrap_or_default();
        let names: HashSet<&[u8]> = entries.iter().map(|entry| &*entry.name).collect();
        if names.len() < entries.len() {
            return Err(ProtocolError("a directory has two entries with the same name"));
        }
        let mut others = Vec::new();
        for Entry { name, kind } in &entries {
            match *kind {
                Kind::File { length, is_executable } => {
                    let part = part_name(name, &names);
                    self.add_file(&directory, name, part, length, is_executable)?;
                }
                Kind::Directory => {
                    let name = directory.join(name)?;
                    self.count(&name)?;
                    self.directories.push_back(name);
                }
                Kind::Other => others.push(directory.join(name)?),
            }
        }
        Ok(others)
    }

    /// The next directory is not transferred.
    pub(crate) fn skip_directory(&mut self) {
        self.directories.pop_front();
    }

    /// The next file is transferred, or is not.
    pub(crate) fn end_file(&mut self) {
        self.files.pop_front();
    }

    fn add_file(
        &mut self,
        directory: &Name,
        component: &[u8],
        part: Vec<u8>,
        length: u64,
        is_executable: bool,
    ) -> Result<(), ProtocolError> {
        let name = directory.join(component)?;
        self.count(&name)?;
        self.length = self.length.saturating_add(length);
        let local = self.local(&name);
        self.files.push_back(File { name, local, part, length, is_executable });
        Ok(())
    }

    fn count(&mut self, name: &Name) -> Result<(), ProtocolError> {
        self.entries += 1;
        self.bytes += 2 * name.path().len();
        if self.entries > MAX_ENTRIES || self.bytes > MAX_BYTES {
            return Err(ProtocolError("the tree has too many entries"));
        }
        Ok(())
    }
}

/// The name of the file that receives the content of `name`: with `.part`, as often as needed to
/// differ from the other entries of its directory.
fn part_name(name: &[u8], others: &HashSet<&[u8]>) -> Vec<u8> {
    let mut part = name.to_vec();
    if part.len() > LONGEST_STEM {
        // Long names that differ at the end only have different parts.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        name.iter().for_each(|byte| hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        part.truncate(LONGEST_STEM - 32);
        part.extend(format!("~{hash:016x}").bytes());
    }
    part.extend(b".part");
    while others.contains(&*part) && part.len() + 5 <= 255 {
        part.extend(b".part");
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Name {
        Name::new(path.as_bytes()).unwrap()
    }

    fn file(name: &str, length: u64) -> Entry {
        Entry { name: name.into(), kind: Kind::File { length, is_executable: false } }
    }

    fn directory(name: &str) -> Entry {
        Entry { name: name.into(), kind: Kind::Directory }
    }

    #[test]
    fn all_directories_are_listed_before_the_first_file() {
        let mut walk = Walk::new(name("data/tree"));
        assert_eq!(walk.directory(), Some(&name("data/tree")));
        assert_eq!(walk.local(&name("data/tree")), name("tree"));
        let other = Entry { name: b"link".to_vec(), kind: Kind::Other };
        let others = walk.is_directory(vec![file("a", 3), directory("d"), other, file("z", 4)]).unwrap();
        assert_eq!(others, [name("data/tree/link")]);
        assert_eq!((walk.file(), walk.directory()), (None, Some(&name("data/tree/d"))));
        walk.is_directory(vec![file("b", 5)]).unwrap();
        assert_eq!(walk.length, 12);
        let mut files = Vec::new();
        while let Some(file) = walk.file() {
            files.push((file.name.clone(), file.local.clone()));
            walk.end_file();
        }
        assert_eq!(
            files,
            ["a", "z", "d/b"].map(|path| (name(&format!("data/tree/{path}")), name(&format!("tree/{path}"))))
        );
    }

    #[test]
    fn a_single_file_and_the_root_have_their_places() {
        let mut walk = Walk::new(name("data/file"));
        walk.is_file(7, true).unwrap();
        let file = walk.file().unwrap();
        assert_eq!(
            (&file.name, &file.local, &file.part[..]),
            (&name("data/file"), &name("file"), &b"file.part"[..])
        );
        assert!(file.is_executable && file.length == 7);

        let mut walk = Walk::new(Name::default());
        assert_eq!(walk.local(&Name::default()), Name::default());
        walk.is_directory(vec![directory("d")]).unwrap();
        assert_eq!(walk.local(walk.directory().unwrap()), name("d"));
        assert!(Walk::new(Name::default()).is_file(1, false).is_err());
    }

    #[test]
    fn a_part_never_has_the_name_of_another_file() {
        let mut walk = Walk::new(Name::default());
        let long = ["x".repeat(255), format!("{}y", "x".repeat(254))];
        let mut entries: Vec<Entry> = ["a", "a.part", "a.part.part", "b"].map(|name| file(name, 1)).into();
        entries.extend(long.iter().map(|name| file(name, 1)));
        let names: HashSet<Vec<u8>> = entries.iter().map(|entry| entry.name.clone()).collect();
        walk.is_directory(entries).unwrap();
        let mut parts = HashSet::new();
        while let Some(file) = walk.file() {
            assert!(!names.contains(&file.part) && file.part.len() <= 255, "{:?}", file.part);
            // Files are transferred one after the other, so these two may share a part.
            parts.insert(file.part.clone());
            walk.end_file();
        }
        assert!(parts.contains(&b"a.part.part.part"[..]) && parts.contains(&b"b.part"[..]));
        assert!(parts.len() >= 4);
    }

    #[test]
    fn hostile_listings_are_refused() {
        let mut walk = Walk::new(Name::default());
        assert!(walk.is_directory(vec![file("a", 1), directory("a")]).is_err());
        let mut walk = Walk::new(Name::default());
        // A directory in itself, without an end.
        let depth = (0..1000).take_while(|_| walk.is_directory(vec![directory("d")]).is_ok()).count();
        assert_eq!(depth, 200);
        // Of the last entries that a tree may have, and one more.
        for entries in [10, 11] {
            let mut walk = Walk::new(Name::default());
            walk.entries = MAX_ENTRIES - 10;
            let listing = (0..entries).map(|number| file(&number.to_string(), 1)).collect();
            assert_eq!(walk.is_directory(listing).is_ok(), entries == 10);
        }
        for bytes in [2, 1] {
            let mut walk = Walk::new(Name::default());
            walk.bytes = MAX_BYTES - bytes;
            assert_eq!(walk.is_directory(vec![file("a", 1)]).is_ok(), bytes == 2);
        }
    }
}
