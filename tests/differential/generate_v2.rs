//! Random v2 requests over a small tree, so that files, directories, hidden names and conditions meet.

use http::Method;
use rand::Rng;
use rand::rngs::SmallRng;

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// Below `/v2/keys`, percent-encoded.
    path: String,
    query: Vec<(&'static str, String)>,
    /// A form as body.
    pub form: Option<String>,
}

impl Call {
    pub fn new(method: Method, path: &str) -> Self {
        Self { method, path: path.to_owned(), query: Vec::new(), form: None }
    }

    /// A sorted look at everything below a path.
    pub fn whole(path: &str) -> Self {
        let query = vec![("recursive", "true".to_owned()), ("sorted", "true".to_owned())];
        Self { query, ..Self::new(Method::GET, path) }
    }

    pub fn target(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/v2/keys{}{mark}{}", self.path, query.join("&"))
    }

    /// Where it may have written.
    pub fn written_path(&self) -> Option<&str> {
        matches!(self.method, Method::PUT | Method::POST).then_some(self.path.as_str())
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.query.iter().any(|(other, given)| *other == name && given == value)
    }

    /// Whether the answer's order is certain.
    pub fn is_sorted(&self) -> bool {
        self.method != Method::GET || self.has("sorted", "true")
    }
}

/// What the generator knows of the stores.
pub struct Generator {
    pub random: SmallRng,
    /// The newest index seen.
    pub index: u64,
    /// Nodes get this time to live now and then, seconds; `None` = only times that do not pass during the test.
    pub short_ttl: Option<u64>,
}

/// A client that waits for one event.
#[derive(Debug, Clone)]
pub struct Watch {
    pub path: String,
    pub recursive: bool,
    /// 0 = the next event.
    pub from: u64,
}

impl Watch {
    pub fn target(&self) -> String {
        let Self { path, recursive, from } = self;
        let from = if *from == 0 { String::new() } else { format!("&waitIndex={from}") };
        format!("/v2/keys{path}?wait=true&recursive={recursive}{from}")
    }
}

/// No name is the beginning of another: etcd's history takes `/yfoo` for a part of `/y`.
const NAMES: [&str; 7] = ["a", "b", "c", "_hidden", "sp%20ace", "%C3%BC%3C%26", "d+e"];
/// Below this nothing is ever hidden: etcd's history shows what etcd's watchers do not.
const OPEN: &str = "b";

impl Generator {
    pub fn next(&mut self) -> Call {
        let mut call = match self.random.random_range(0..100) {
            0..28 => self.get(),
            28..30 => Call { method: Method::HEAD, ..self.get() },
            30..73 => self.put(),
            73..81 => self.post(),
            _ => self.delete(),
        };
        if self.chance(40) {
            self.spoil(&mut call);
        }
        call
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.random.random_range(0..list.len())].clone()
    }

    fn path(&mut self) -> String {
        let depth = self.pick(&[0, 1, 1, 1, 1, 2, 2, 3]);
        let mut path = String::new();
        for _ in 0..depth {
            let mut name = self.pick(&NAMES);
            if path.starts_with(&format!("/{OPEN}")) && name.starts_with('_') {
                name = OPEN;
            }
            path += &format!("/{name}");
        }
        if self.chance(12) {
            path.push('/');
        }
        path
    }

    fn flag(&mut self, call: &mut Call, name: &'static str, one_in: u32) {
        if self.chance(one_in) {
            let value = self.pick(&["true", "true", "true", "false", "1", "T"]);
            call.query.push((name, value.to_owned()));
        }
    }

    fn value(&mut self) -> &'static str {
        self.pick(&["", "one", "two", "three", "%C3%BC+%22x%22"])
    }

    fn old_index(&mut self) -> String {
        match self.random.random_range(0..6) {
            0 => "0".to_owned(),
            1 => (self.index + 1).to_string(),
            _ => self.random.random_range(self.index.saturating_sub(12)..=self.index).to_string(),
        }
    }

    fn get(&mut self) -> Call {
        let mut call = Call::new(Method::GET, &self.path());
        self.flag(&mut call, "recursive", 3);
        self.flag(&mut call, "sorted", 2);
        self.flag(&mut call, "quorum", 4);
        call
    }

    fn put(&mut self) -> Call {
        let mut call = Call::new(Method::PUT, &self.path());
        let mut form = vec![];
        let refresh = self.chance(12);
        if !self.chance(if refresh { 2 } else { 10 }) {
            form.push(("value", self.value().to_owned()));
        }
        if refresh {
            form.push(("refresh", "true".to_owned()));
        }
        if self.chance(if refresh { 2 } else { 6 }) {
            form.push(("ttl", self.pick(&["100000", "500000", ""]).to_owned()));
        } else if let Some(seconds) = self.short_ttl
            && self.chance(2)
        {
            form.push(("ttl", seconds.to_string()));
        }
        self.conditions(&mut form);
        if self.chance(5) {
            form.push(("prevExist", self.pick(&["true", "false"]).to_owned()));
        }
        self.flag(&mut call, "dir", 5);
        self.flag(&mut call, "noValueOnSuccess", 12);
        self.give(&mut call, form);
        call
    }

    fn conditions(&mut self, parameters: &mut Vec<(&'static str, String)>) {
        if self.chance(10) {
            parameters.push(("prevValue", self.value().to_owned()));
        }
        if self.chance(10) {
            parameters.push(("prevIndex", self.old_index()));
        }
    }

    /// In the body, in the query, or some here and some there.
    fn give(&mut self, call: &mut Call, parameters: Vec<(&'static str, String)>) {
        let mut body = Vec::new();
        let place = self.random.random_range(0..4);
        for (name, value) in parameters {
            let in_query = place == 0 || (place == 1 && name.starts_with("prev"));
            if in_query {
                call.query.push((name, value));
            } else {
                body.push(format!("{name}={value}"));
            }
        }
        call.form = (place != 0).then(|| body.join("&"));
    }

    fn post(&mut self) -> Call {
        let mut call = Call::new(Method::POST, &self.path());
        let mut form = vec![("value", self.value().to_owned())];
        if self.chance(5) {
            form.push(("ttl", self.short_ttl.unwrap_or(100_000).to_string()));
        }
        self.flag(&mut call, "dir", 6);
        self.give(&mut call, form);
        call
    }

    fn delete(&mut self) -> Call {
        let mut call = Call::new(Method::DELETE, &self.path());
        self.flag(&mut call, "dir", 3);
        self.flag(&mut call, "recursive", 3);
        let mut query = Vec::new();
        self.conditions(&mut query);
        call.query.extend(query);
        call
    }

    /// From beyond the window to the future. What etcd's history shows and etcd's watchers do not is left out: a
    /// recursive look at the past is taken only where nothing is hidden.
    pub fn watch(&mut self) -> Watch {
        let from = match self.random.random_range(0..10) {
            0 => 0,
            1..4 => self.index + self.random.random_range(1..200),
            _ => self.random.random_range(self.index.saturating_sub(1100).max(1)..=self.index),
        };
        let live = from == 0 || from > self.index;
        let recursive = self.chance(2);
        let mut path = self.path().trim_end_matches('/').to_owned();
        if recursive && !live {
            let below: String = path
                .split('/')
                .skip(2)
                .filter(|name| !name.starts_with('_'))
                .fold(String::new(), |below, name| below + "/" + name);
            path = format!("/{OPEN}{below}");
        }
        Watch { path, recursive, from }
    }

    /// Makes it a request that must be refused, or that means something odd.
    fn spoil(&mut self, call: &mut Call) {
        let bad = [
            ("ttl", "abc"),
            ("ttl", "-1"),
            ("ttl", "1.5"),
            ("prevExist", "maybe"),
            ("prevExist", ""),
            ("recursive", "yes"),
            ("sorted", ""),
            ("dir", "2"),
            ("quorum", "x"),
            ("stream", "no"),
            ("wait", "perhaps"),
            ("prevIndex", "-1"),
            ("prevIndex", ""),
            ("waitIndex", "z"),
            ("prevValue", ""),
            ("refresh", "what"),
            ("noValueOnSuccess", "si"),
            ("unknown", "1"),
            ("value", "%zz"),
        ];
        let (name, value) = self.pick(&bad);
        call.query.push((name, value.to_owned()));
        if call.method != Method::GET && self.chance(6) {
            call.query.push(("wait", "true".to_owned()));
        }
    }
}
