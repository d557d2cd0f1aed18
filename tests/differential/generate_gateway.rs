//! Requests for the JSON gateway: every path, good bodies in every spelling, bad ones of every kind.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore};

/// How the two versions are to be compared on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Status and body alike.
    Same,
    /// Broken JSON: alike if it is broken for the scanner; the version decides what is wrong with values, so then only
    /// "refused as an invalid argument" is compared, if both refuse.
    Broken,
}

#[derive(Debug, Clone)]
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub body: Vec<u8>,
    pub rule: Rule,
}

/// Leases that requests speak of.
const LEASES: [i64; 4] = [101, 102, 103, -7];
const KEYS: [&str; 6] = ["a", "b", "b/1", "c\u{fb}", "q?>", ""];

pub struct Generator {
    pub random: SmallRng,
    /// Current revision, kept by the caller.
    pub revision: i64,
    /// Use spellings that 3.4 does not read: URL-safe and unpadded base64, `1e0` for 1.
    pub modern: bool,
}

impl Generator {
    pub fn next(&mut self) -> Call {
        let (path, body) = self.request();
        let mut call = Call { method: "POST", path: format!("/v3/{path}"), body: body.into_bytes(), rule: Rule::Same };
        if self.below(20) == 0 {
            call.path = call.path.replacen("/v3/", "/v3beta/", 1);
        }
        if self.below(60) == 0 {
            // Changes nothing on either side.
            call.method = ["GET", "PUT", "DELETE"][self.below(3)];
        }
        call
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random.random_range(0..limit)
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn request(&mut self) -> (&'static str, String) {
        match self.below(24) {
            0..=5 => ("kv/put", self.put()),
            6..=9 => ("kv/range", self.range()),
            10 => ("kv/deleterange", self.delete()),
            11..=13 => ("kv/txn", self.txn()),
            14 => {
                let revision = self.revision - 20 + self.below(24) as i64;
                let revision = self.number(revision);
                ("kv/compaction", format!("{{\"revision\":{revision}}}"))
            }
            15 => {
                let (lease, ttl) = (self.lease(), 1_000 + self.below(9_000) as i64);
                let (lease, ttl) = (self.number(lease), self.number(ttl));
                ("lease/grant", format!("{{\"ID\":{lease},\"TTL\":{ttl}}}"))
            }
            16 => {
                let lease = self.lease();
                let lease = self.number(lease);
                (self.pick_path(&["lease/revoke", "kv/lease/revoke"]), format!("{{\"ID\":{lease}}}"))
            }
            17 => {
                let lease = self.lease();
                let (lease, keys) = (self.number(lease), self.flag());
                let path = self.pick_path(&["lease/timetolive", "kv/lease/timetolive"]);
                (path, format!("{{\"ID\":{lease},\"keys\":{keys}}}"))
            }
            18 => (self.pick_path(&["lease/leases", "kv/lease/leases"]), self.empty()),
            19 => self.election(),
            20 => self.lock(),
            21 => self.cluster(),
            22 => self.maintenance(),
            _ => ("auth/authenticate", "{\"name\":\"a\",\"password\":\"b\"}".to_owned()),
        }
    }

    fn pick_path(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len())]
    }

    fn empty(&mut self) -> String {
        self.pick(&["", "{}", " { } ", "{\"no\":[{\"such\":null}]}"]).to_owned()
    }

    fn lease(&mut self) -> i64 {
        LEASES[self.below(LEASES.len())]
    }

    /// A number as number or text.
    fn number(&mut self, number: i64) -> String {
        match self.below(if self.modern { 4 } else { 2 }) {
            0 => number.to_string(),
            1 => format!("\"{number}\""),
            2 => format!("{number}.0"),
            _ => format!("\"{number}e0\""),
        }
    }

    fn flag(&mut self) -> &'static str {
        if self.below(2) == 0 { "true" } else { "false" }
    }

    /// Bytes in any base64.
    fn bytes(&mut self, bytes: &[u8]) -> String {
        let text = match self.below(if self.modern { 4 } else { 1 }) {
            0 => BASE64_STANDARD.encode(bytes),
            1 => BASE64_STANDARD_NO_PAD.encode(bytes),
            2 => BASE64_URL_SAFE.encode(bytes),
            _ => BASE64_URL_SAFE_NO_PAD.encode(bytes),
        };
        let text = if self.below(8) == 0 { text.replace('Y', "\\u0059") } else { text };
        format!("\"{text}\"")
    }

    fn key(&mut self) -> String {
        let key = if self.below(40) == 0 { "" } else { KEYS[self.below(KEYS.len() - 1)] };
        self.bytes(key.as_bytes())
    }

    /// One of two spellings.
    fn name(&mut self, snake: &'static str, camel: &'static str) -> &'static str {
        if self.below(2) == 0 { snake } else { camel }
    }

    /// Fields in random order, with strangers and spaces between them.
    fn object(&mut self, mut fields: Vec<(&'static str, String)>) -> String {
        if self.below(6) == 0 {
            fields.push(("stranger", self.pick(&["1", "null", "[1,{\"a\":\"]\"}]", "\"{\""]).to_owned()));
        }
        for n in (1..fields.len()).rev() {
            let other = self.below(n + 1);
            fields.swap(n, other);
        }
        let space = self.pick(&["", "", "", " ", "\n\t"]);
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{space}{value}")).collect();
        format!("{{{}{space}}}", fields.join(","))
    }

    fn put(&mut self) -> String {
        let value = [&b"v"[..], b"", &[0xfb, 0xff, 0xfe]][self.below(3)];
        let mut fields = vec![("key", self.key()), ("value", self.bytes(value))];
        if self.below(4) == 0 {
            let lease = self.lease();
            fields.push(("lease", self.number(lease)));
        }
        if self.below(4) == 0 {
            fields.push((self.name("prev_kv", "prevKv"), self.flag().to_owned()));
        }
        if self.below(12) == 0 {
            fields.push((self.name("ignore_value", "ignoreValue"), self.flag().to_owned()));
        }
        if self.below(12) == 0 {
            fields.push((self.name("ignore_lease", "ignoreLease"), self.flag().to_owned()));
        }
        self.object(fields)
    }

    fn range(&mut self) -> String {
        let mut fields = vec![("key", self.key())];
        if self.below(2) == 0 {
            let end = [&b"\0"[..], b"b0", b"z", b"a"][self.below(4)];
            fields.push((self.name("range_end", "rangeEnd"), self.bytes(end)));
        }
        if self.below(3) == 0 {
            let limit = self.below(3) as i64;
            fields.push(("limit", self.number(limit)));
        }
        if self.below(4) == 0 {
            let revision = self.revision - 10 + self.below(12) as i64;
            fields.push(("revision", self.number(revision)));
        }
        if self.below(4) == 0 {
            let order = self.pick(&["\"NONE\"", "\"ASCEND\"", "\"DESCEND\"", "1", "2", "null"]).to_owned();
            fields.push((self.name("sort_order", "sortOrder"), order));
            // Sorted by what is unique, so that there are no ties.
            fields.push((
                self.name("sort_target", "sortTarget"),
                self.pick(&["\"KEY\"", "0", "\"MOD\"", "3"]).to_owned(),
            ));
        }
        for (snake, camel) in [("serializable", "serializable"), ("keys_only", "keysOnly"), ("count_only", "countOnly")]
        {
            if self.below(5) == 0 {
                fields.push((self.name(snake, camel), self.flag().to_owned()));
            }
        }
        if self.below(8) == 0 {
            let revision = self.revision - 5;
            fields.push((self.name("min_mod_revision", "minModRevision"), self.number(revision)));
        }
        self.object(fields)
    }

    fn delete(&mut self) -> String {
        let mut fields = vec![("key", self.key()), (self.name("prev_kv", "prevKv"), self.flag().to_owned())];
        if self.below(4) == 0 {
            fields.push((self.name("range_end", "rangeEnd"), self.bytes(b"b0")));
        }
        self.object(fields)
    }

    fn txn(&mut self) -> String {
        let mut fields = Vec::new();
        if self.below(3) > 0 {
            let compare = self.compare();
            fields.push(("compare", format!("[{compare}]")));
        }
        for branch in ["success", "failure"] {
            if self.below(4) > 0 {
                let count = self.below(3);
                let operations: Vec<String> = (0..count).map(|_| self.operation()).collect();
                fields.push((branch, format!("[{}]", operations.join(","))));
            }
        }
        self.object(fields)
    }

    fn compare(&mut self) -> String {
        let revision = self.below(4) as i64;
        let (target, field) = [
            (["\"VERSION\"", "0"], ["version", "version"]),
            (["\"CREATE\"", "1"], ["create_revision", "createRevision"]),
            (["\"MOD\"", "2"], ["mod_revision", "modRevision"]),
            (["\"LEASE\"", "4"], ["lease", "lease"]),
        ][self.below(4)];
        let value = self.number(revision);
        let result = self.pick(&["\"EQUAL\"", "\"GREATER\"", "\"LESS\"", "\"NOT_EQUAL\"", "0", "1"]).to_owned();
        let fields = vec![
            ("key", self.key()),
            ("target", self.pick(&target).to_owned()),
            ("result", result),
            (self.name(field[0], field[1]), value),
        ];
        self.object(fields)
    }

    fn operation(&mut self) -> String {
        let (name, body) = match self.below(6) {
            0 | 1 => (self.name("request_put", "requestPut"), self.put()),
            2 | 3 => (self.name("request_range", "requestRange"), self.range()),
            4 => (self.name("request_delete_range", "requestDeleteRange"), self.delete()),
            _ => ("request_nonsense", "{}".to_owned()),
        };
        format!("{{\"{name}\":{body}}}")
    }

    fn election(&mut self) -> (&'static str, String) {
        // Only the leases of the first names campaign, so that nobody has to wait.
        let name = [("e1", 101_i64), ("e2", 102), ("none", 103)][self.below(3)];
        let (bytes, lease) = (self.bytes(name.0.as_bytes()), self.number(name.1));
        let value = self.bytes(b"me");
        match self.below(4) {
            0 => ("election/campaign", self.object(vec![("name", bytes), ("lease", lease), ("value", value)])),
            1 => ("election/leader", format!("{{\"name\":{bytes}}}")),
            2 => {
                let key = self.bytes(format!("{}/{:x}", name.0, name.1).as_bytes());
                let rev = self.number(3);
                let leader = self.object(vec![("name", bytes), ("key", key), ("rev", rev), ("lease", lease)]);
                let path = self.pick_path(&["election/proclaim", "election/resign"]);
                (path, format!("{{\"leader\":{leader},\"value\":{value}}}"))
            }
            _ => (
                self.pick_path(&["election/proclaim", "election/resign"]),
                self.pick(&["{}", "{\"leader\":{}}"]).to_owned(),
            ),
        }
    }

    fn lock(&mut self) -> (&'static str, String) {
        let (name, lease) = [("l1", 101_i64), ("l2", 102)][self.below(2)];
        if self.below(2) == 0 {
            let fields = vec![("name", self.bytes(name.as_bytes())), ("lease", self.number(lease))];
            ("lock/lock", self.object(fields))
        } else {
            let key = if self.below(5) == 0 { String::new() } else { format!("{name}/{lease:x}") };
            let key = self.bytes(key.as_bytes());
            ("lock/unlock", format!("{{\"key\":{key}}}"))
        }
    }

    fn cluster(&mut self) -> (&'static str, String) {
        let id = self.number(77);
        match self.below(6) {
            0 => {
                ("cluster/member/add", self.pick(&["{}", "{\"peerURLs\":[]}", "{\"peerURLs\":[\"nope\"]}"]).to_owned())
            }
            1 => ("cluster/member/remove", format!("{{\"ID\":{id}}}")),
            2 => ("cluster/member/update", format!("{{\"ID\":{id},\"peerURLs\":[\"http://127.0.0.1:9\"]}}")),
            3 => ("cluster/member/promote", format!("{{\"ID\":{id}}}")),
            _ => ("cluster/member/list", self.empty()),
        }
    }

    fn maintenance(&mut self) -> (&'static str, String) {
        match self.below(6) {
            0 => ("maintenance/status", self.empty()),
            1 => {
                let fields = vec![
                    ("action", self.pick(&["\"ACTIVATE\"", "1", "\"GET\"", "0", "\"DEACTIVATE\"", "2"]).to_owned()),
                    (self.name("memberID", "memberID"), self.number(5)),
                    // One that blocks nothing.
                    ("alarm", "7".to_owned()),
                ];
                ("maintenance/alarm", self.object(fields))
            }
            2 => ("maintenance/defragment", self.empty()),
            3 => ("maintenance/transfer-leadership", self.pick(&["{\"targetID\":\"1\"}", "{}"]).to_owned()),
            4 => (self.pick_path(&["nope", "kv", "kv/put/", "KV/put", "maintenance/hash/"]), "{}".to_owned()),
            _ => ("maintenance/alarm", "{\"action\":\"GET\",\"alarm\":\"NOSPACE\"}".to_owned()),
        }
    }

    /// A read whose body is damaged in some way.
    pub fn broken(&mut self) -> Call {
        let mut body = self.range().into_bytes();
        let at = self.below(body.len());
        match self.below(5) {
            0 => body.truncate(at),
            1 => {
                body.remove(at);
            }
            2 => body[at] = (self.random.next_u32() & 0x7f) as u8,
            3 => {
                let byte = b"{}[]\",:x0-.\\tn "[self.below(15)];
                body.insert(at, byte);
            }
            _ => body.extend_from_slice(b"garbage"),
        }
        let path = self.pick(&["kv/range", "kv/range", "lease/timetolive", "cluster/member/list"]);
        Call { method: "POST", path: format!("/v3/{path}"), body, rule: Rule::Broken }
    }
}
