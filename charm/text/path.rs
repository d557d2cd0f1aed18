//! Folders.

use super::parsed_text;

/// Longest path, as Linux has it.
const MAX_PATH: usize = 4_096;

parsed_text! {
    /// A folder by its absolute path, without `.`, `..`, empty parts and control characters.
    Folder, |text| {
        let inside = text.strip_prefix('/')?.trim_end_matches('/');
        let sound = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
        let good = text.len() <= MAX_PATH && (inside.is_empty() || inside.split('/').all(sound));
        good.then(|| format!("/{inside}"))
    }
}

impl Folder {
    /// The folder that lies below this one at `path`.
    #[must_use]
    pub fn below(&self, path: &Folder) -> Folder {
        let root = self.0.trim_end_matches('/');
        if path.0 == "/" { self.clone() } else { Folder(format!("{root}{}", path.0)) }
    }

    /// The root of the file system.
    #[must_use]
    pub fn top() -> Folder {
        Folder("/".to_owned())
    }

    /// Where the data lies on a machine without a storage of its own for it.
    #[must_use]
    pub fn data() -> Folder {
        Folder(crate::facts::DATA_DIR.to_owned())
    }

    /// The part `name` of this folder.
    #[must_use]
    pub fn join(&self, name: &'static str) -> Folder {
        Folder(format!("{}/{name}", self.0.trim_end_matches('/')))
    }

    /// As one item of a list in a systemd unit: quoted, with `%` and the quoting characters escaped.
    #[must_use]
    pub fn for_systemd(&self) -> String {
        let text = self.0.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_absolute_and_stays_below_where_it_begins() {
        for (text, wanted) in [("/", "/"), ("/srv/data/0/", "/srv/data/0"), ("/home/joe doe", "/home/joe doe")] {
            assert_eq!(Folder::parse(text).unwrap(), wanted);
        }
        for bad in ["", "srv", "/srv/../etc", "/srv/./x", "/srv//x", "/srv\n[Service]", "/srv/\u{7f}"] {
            assert_eq!(Folder::parse(bad), None, "{bad:?}");
        }
        let (root, mount) = (Folder::from("/lab/0"), Folder::from("/srv/data/0"));
        assert_eq!(root.below(&mount).join("etcd"), "/lab/0/srv/data/0/etcd");
        assert_eq!(Folder::from("/").below(&mount), "/srv/data/0");
    }

    #[test]
    fn systemd_reads_a_folder_as_one_word_without_specifiers() {
        assert_eq!(Folder::from("/srv/data/0").for_systemd(), "\"/srv/data/0\"");
        assert_eq!(Folder::from("/a b/%h\\\"").for_systemd(), "\"/a b/%%h\\\\\\\"\"");
    }
}
