//! A streaming parser of recursive v2 responses of any size: nodes in the order of the response.

use json_event_parser::{JsonEvent, JsonParseError, TokioAsyncReaderJsonParser};
use tokio::io::AsyncRead;

use crate::treefile::{Node, parse_time};

/// Maximum size of one JSON token, in bytes: one value with its escapes.
const MAX_TOKEN_BYTES: usize = 80 << 20;

/// Why a response is no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// It is truncated or not JSON.
    #[error("{0}")]
    Json(#[from] JsonParseError),
    /// It is JSON of another structure.
    #[error("it is no node of the v2 API: {0}")]
    Shape(String),
}

/// The parser's state.
enum Level {
    /// In the event.
    Event,
    /// In a node.
    Node(Draft),
    /// In a node's `nodes`.
    Children,
}

/// A node whose fields are still being parsed.
#[derive(Default)]
struct Draft {
    key: Option<String>,
    value: Option<String>,
    dir: bool,
    expiration: Option<i64>,
    given: bool,
}

impl Draft {
    /// The node; `None` for the root, which has no key, and when it was already returned.
    fn give(&mut self) -> Option<Node> {
        if std::mem::replace(&mut self.given, true) {
            return None;
        }
        let key = self.key.take()?.into_bytes();
        let value = self.value.take().unwrap_or_default().into_bytes();
        Some(Node { key, value: (!self.dir).then_some(value), expiration: self.expiration })
    }
}

/// The nodes of one response.
pub struct Listing<R: AsyncRead + Unpin> {
    parser: TokioAsyncReaderJsonParser<R>,
    levels: Vec<Level>,
    ended: bool,
}

/// The action for one parser event.
enum Step {
    Nothing,
    Give,
    Close,
    /// Skip the value that starts here.
    Skip,
    Eof,
}

impl<R: AsyncRead + Unpin> Listing<R> {
    /// A parser of `answer`, the body of a GET.
    pub fn new(answer: R) -> Self {
        let parser = TokioAsyncReaderJsonParser::new(answer).with_max_buffer_size(MAX_TOKEN_BYTES);
        Self { parser, levels: Vec::new(), ended: false }
    }

    /// The next node, parents before children; `None` after the last, once the response is known to be complete.
    pub async fn next(&mut self) -> Result<Option<Node>, ListingError> {
        while !self.ended {
            let node = match self.step().await? {
                Step::Nothing => None,
                Step::Skip => {
                    self.skip().await?;
                    None
                }
                Step::Give => self.draft().and_then(Draft::give),
                Step::Close => match self.levels.pop() {
                    Some(Level::Node(mut draft)) => draft.give(),
                    _ => None,
                },
                Step::Eof => {
                    self.ended = true;
                    None
                }
            };
            if node.is_some() {
                return Ok(node);
            }
        }
        Ok(None)
    }

    fn draft(&mut self) -> Option<&mut Draft> {
        match self.levels.iter_mut().rev().find(|level| matches!(level, Level::Node(_))) {
            Some(Level::Node(draft)) => Some(draft),
            _ => None,
        }
    }

    async fn step(&mut self) -> Result<Step, ListingError> {
        let shape = |what: &str| Err(ListingError::Shape(what.to_owned()));
        match (self.parser.parse_next().await?, self.levels.last_mut()) {
            (JsonEvent::Eof, _) => Ok(Step::Eof),
            (JsonEvent::StartObject, None) => {
                self.levels.push(Level::Event);
                Ok(Step::Nothing)
            }
            (JsonEvent::StartObject, Some(Level::Children)) => {
                self.levels.push(Level::Node(Draft::default()));
                Ok(Step::Nothing)
            }
            (JsonEvent::EndObject | JsonEvent::EndArray, _) => Ok(Step::Close),
            (JsonEvent::ObjectKey(name), Some(Level::Event)) => {
                if name != "node" {
                    return Ok(Step::Skip);
                }
                match self.parser.parse_next().await? {
                    JsonEvent::StartObject => self.levels.push(Level::Node(Draft::default())),
                    _ => return shape("its node is no object"),
                }
                Ok(Step::Nothing)
            }
            (JsonEvent::ObjectKey(name), Some(Level::Node(draft))) => {
                let name = Field::of(&name);
                match (name, draft.given) {
                    (Field::Other, _) => return Ok(Step::Skip),
                    (_, true) => return shape("its own fields come after its children"),
                    _ => {}
                }
                let value = self.parser.parse_next().await?;
                match (name, value) {
                    (Field::Key, JsonEvent::String(text)) => draft.key = Some(text.into_owned()),
                    (Field::Value, JsonEvent::String(text)) => draft.value = Some(text.into_owned()),
                    (Field::Dir, JsonEvent::Boolean(dir)) => draft.dir = dir,
                    (Field::Expiration, JsonEvent::String(text)) => {
                        let Some(at) = parse_time(&text) else { return shape("its expiration is no time") };
                        draft.expiration = Some(at);
                    }
                    (Field::Nodes, JsonEvent::StartArray) => {
                        self.levels.push(Level::Children);
                        return Ok(Step::Give);
                    }
                    _ => return shape("a field has a value of another type"),
                }
                Ok(Step::Nothing)
            }
            (event, _) => shape(&format!("{event:?} where none can be")),
        }
    }

    /// Skips one value.
    async fn skip(&mut self) -> Result<(), ListingError> {
        let mut depth = 0usize;
        loop {
            match self.parser.parse_next().await? {
                JsonEvent::StartObject | JsonEvent::StartArray => depth += 1,
                JsonEvent::EndObject | JsonEvent::EndArray => depth -= 1,
                JsonEvent::Eof => return Ok(()),
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The fields of a node that are used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Key,
    Value,
    Dir,
    Expiration,
    Nodes,
    Other,
}

impl Field {
    fn of(name: &str) -> Self {
        match name {
            "key" => Self::Key,
            "value" => Self::Value,
            "dir" => Self::Dir,
            "expiration" => Self::Expiration,
            "nodes" => Self::Nodes,
            _ => Self::Other,
        }
    }
}
