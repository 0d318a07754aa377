//! Reading a folder as `kubectl apply -f FOLDER` does: its own YAML and JSON files, not
//! those of folders below. Symbolic links are followed, so a mounted ConfigMap (whose files
//! lead through `..data`) works; names that start with a dot are left out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use super::Origin;
use super::set::Contents;

/// Largest file, in bytes.
pub(super) const FILE_MAX: u64 = 1024 * 1024;

/// Reads all files of a folder, or the one file that `path` names.
///
/// # Errors
/// The folder cannot be listed. A single file that cannot be read is part of the answer.
pub(super) fn read(path: &Path) -> std::io::Result<BTreeMap<Origin, Contents>> {
    let mut files = BTreeMap::new();
    if !fs::metadata(path)?.is_dir() {
        files.insert(Origin::File(path.to_owned()), read_file(path));
        return Ok(files);
    }
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let manifest = path
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        // A link without a target, or a folder: not a file of ours.
        let file = || fs::metadata(&path).is_ok_and(|m| m.is_file());
        if !hidden && manifest && file() {
            let contents = read_file(&path);
            files.insert(Origin::File(path), contents);
        }
    }
    Ok(files)
}

fn read_file(path: &Path) -> Contents {
    let file = fs::File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
    let mut bytes = Vec::new();
    let limited = file.take(FILE_MAX + 1).read_to_end(&mut bytes);
    limited.map_err(|e| format!("cannot be read: {e}"))?;
    if bytes.is_empty() {
        // Saving empties a file before it fills it; a slow disk shows that state for long.
        return Err("is empty: what it defined stays until the file is removed".into());
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("is larger than {FILE_MAX} bytes: split it"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        format!("is not UTF-8 in line {line}")
    })
}
