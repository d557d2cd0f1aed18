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

    pub fn target(&self) -> String {
        let query: Vec<String> = self.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("/v2/keys{}{mark}{}", self.path, query.join("&"))
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.query.iter().any(|(other, given)| *other == name && given == value)
    }

    pub fn is_watch(&self) -> bool {
        self.method == Method::GET && self.has("wait", "true")
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
}

/// No name is the beginning of another: etcd's history takes `/yfoo` for a part of `/y`.
const NAMES: [&str; 7] = ["a", "b", "c", "_hidden", "sp%20ace", "%C3%BC%3C%26", "d+e"];

impl Generator {
    pub fn next(&mut self) -> Call {
        let mut call = match self.random.random_range(0..100) {
            0..28 => self.get(),
            28..30 => Call { method: Method::HEAD, ..self.get() },
            30..72 => self.put(),
            72..80 => self.post(),
            80..98 => self.delete(),
            _ => self.watch(),
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
        let mut path: String = (0..depth).map(|_| format!("/{}", self.pick(&NAMES))).collect();
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
            form.push(("ttl", "100000".to_owned()));
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

    /// From the past, so that it mostly answers at once; of one name that is not hidden, since etcd's history shows what
    /// etcd's watchers do not.
    fn watch(&mut self) -> Call {
        let mut call = Call::new(Method::GET, &format!("/{}", self.pick(&["a", "b", "c"])));
        let from = self.random.random_range(self.index.saturating_sub(60)..=self.index);
        call.query = vec![("wait", "true".to_owned()), ("waitIndex", from.to_string())];
        call
    }

    /// Makes it a request that must be refused, or that means something odd.
    fn spoil(&mut self, call: &mut Call) {
        if call.is_watch() {
            return;
        }
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
