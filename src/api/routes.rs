//! Every HTTP route of the client port and of the metrics port: its paths, its methods, and which port has it. Who may
//! use it stands in [`super::rights`]. The routers are made from this list, so what is not in it is not served.

use http::Method;

/// A path of a route: as it stands, or everything below it when it ends in [`REST`].
pub type Pattern = &'static str;

/// The end of a pattern for a folder: one character or more.
pub const REST: &str = "{*rest}";

const GET: &[Method] = &[Method::GET];
const GET_HEAD: &[Method] = &[Method::GET, Method::HEAD];
const KEYS: &[Method] = &[Method::HEAD, Method::GET, Method::PUT, Method::POST, Method::DELETE];
const MEMBERS: &[Method] = &[Method::GET, Method::POST, Method::DELETE, Method::PUT];
const ITEM: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];
/// The gateway has its own words for a wrong method, and a folder without its slash sends everybody on.
const ANY: &[Method] = &[];

macro_rules! routes {
    ($($(#[$doc:meta])* $route:ident: [$($pattern:literal),*], $methods:ident;)*) => {
        /// A route.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Route {
            $($(#[$doc])* $route,)*
        }

        impl Route {
            /// Every route; the one that carries the load first.
            pub const ALL: [Self; [$(stringify!($route)),*].len()] = [$(Self::$route),*];

            /// Its paths.
            pub fn patterns(self) -> &'static [Pattern] {
                match self { $(Self::$route => &[$($pattern),*],)* }
            }

            /// The methods it has, in the order of the `Allow` header; empty for a route that judges them by itself.
            pub fn methods(self) -> &'static [Method] {
                match self { $(Self::$route => $methods,)* }
            }
        }
    };
}

routes! {
    /// Keys of the v2 tree, and waiting for them.
    V2Keys: ["/v2/keys", "/v2/keys/", "/v2/keys/{*rest}"], KEYS;
    /// What `/v3/…` serves as JSON.
    Gateway: ["/v3/", "/v3/{*rest}", "/v3beta/", "/v3beta/{*rest}"], ANY;
    /// Goes on to `/v3/`.
    GatewayFolder: ["/v3"], ANY;
    /// Whether this member is well.
    Health: ["/health"], GET;
    /// Whether to restart this member; below it, one check.
    Livez: ["/livez", "/livez/", "/livez/{*rest}"], GET;
    /// Whether to send this member traffic; below it, one check.
    Readyz: ["/readyz", "/readyz/", "/readyz/{*rest}"], GET;
    /// Counters.
    Metrics: ["/metrics"], GET;
    /// Versions of server and cluster.
    Version: ["/version"], GET;
    /// How the process was started and where its replica stands.
    Debug: ["/debug/", "/debug/{*rest}"], GET;
    /// Client URLs of all members.
    V2Machines: ["/v2/machines"], GET_HEAD;
    /// The members.
    V2Members: ["/v2/members", "/v2/members/"], MEMBERS;
    /// One member; `leader` to a GET.
    V2Member: ["/v2/members/{*rest}"], MEMBERS;
    /// This member.
    V2StatsSelf: ["/v2/stats/self"], GET;
    /// The leader's followers.
    V2StatsLeader: ["/v2/stats/leader"], GET;
    /// Counts of operations.
    V2StatsStore: ["/v2/stats/store"], GET;
    /// The tree as one file.
    V2Export: ["/v2/export", "/v2/export/", "/v2/export/{*rest}"], GET;
    /// The switch of v2 authentication.
    V2AuthEnable: ["/v2/auth/enable"], ITEM;
    /// Users of v2.
    V2AuthUsers: ["/v2/auth/users", "/v2/auth/users/"], GET;
    /// A user of v2.
    V2AuthUser: ["/v2/auth/users/{*rest}"], ITEM;
    /// Roles of v2.
    V2AuthRoles: ["/v2/auth/roles", "/v2/auth/roles/"], GET;
    /// A role of v2.
    V2AuthRole: ["/v2/auth/roles/{*rest}"], ITEM;
}

impl Route {
    /// Whether `--listen-metrics-urls` has it too: what reads or writes data is not there.
    pub fn is_on_metrics_port(self) -> bool {
        match self {
            Self::Health | Self::Livez | Self::Readyz | Self::Metrics => true,
            Self::Version
            | Self::Debug
            | Self::Gateway
            | Self::GatewayFolder
            | Self::V2Keys
            | Self::V2Machines
            | Self::V2Members
            | Self::V2Member
            | Self::V2StatsSelf
            | Self::V2StatsLeader
            | Self::V2StatsStore
            | Self::V2Export
            | Self::V2AuthEnable
            | Self::V2AuthUsers
            | Self::V2AuthUser
            | Self::V2AuthRoles
            | Self::V2AuthRole => false,
        }
    }

    /// Whether it belongs to the v2 API.
    pub fn is_v2(self) -> bool {
        self.patterns().iter().all(|pattern| pattern.starts_with("/v2/"))
    }

    /// Whether it belongs to the JSON gateway.
    pub fn is_gateway(self) -> bool {
        matches!(self, Self::Gateway | Self::GatewayFolder)
    }

    /// The route of a path; `None` for a path that nobody serves.
    pub fn find(path: &str) -> Option<Self> {
        let fits = |pattern: &Pattern| match pattern.strip_suffix(REST) {
            Some(folder) => path.len() > folder.len() && path.starts_with(folder),
            None => path == *pattern,
        };
        Self::ALL.into_iter().find(|route| route.patterns().iter().any(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_each_of_its_paths() {
        for route in Route::ALL {
            for pattern in route.patterns() {
                assert_eq!(Route::find(&pattern.replace(REST, "x/y")), Some(route), "{pattern}");
            }
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_not_found() {
        for path in
            ["/", "", "/v2", "/v2/", "/v2/keysx", "/v2/auth", "/v2/auth/usersx", "/v2/stats/", "/healthz", "/v3x"]
        {
            assert_eq!(Route::find(path), None, "{path}");
        }
    }
}
