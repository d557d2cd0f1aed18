//! A whole store in memory: the plainest view there is. Tests hold the rules and the real store against it.
