//! Replaces a file atomically.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The mode of a new file: readable by all, since the guard may run as another user.
const MODE: u32 = 0o644;

/// Writes a file beside the one at `path`, and puts it in its place once it is on the
/// disk: readers see the old one or the new one. Its permissions stay as they were.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let beside = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let mode = fs::metadata(path).map_or(MODE, |known| known.permissions().mode());
    let written = write(&beside, bytes, mode).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.json");
        whole(&path, b"one").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let mut open = File::open(&path).unwrap();
        whole(&path, b"another").unwrap();
        let mut seen = String::new();
        io::Read::read_to_string(&mut open, &mut seen).unwrap();
        assert_eq!((seen.as_str(), fs::read(&path).unwrap().as_slice()), ("one", b"another".as_slice()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(whole(&folder.path().join("none/prices.json"), b"x").is_err());
        fs::create_dir(folder.path().join("taken")).unwrap();
        assert!(whole(&folder.path().join("taken"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
