//! Leadership: a lease with a holder, renewed while its holder lives, left to run out when it does not.

/// Who leads one application.
#[derive(Debug, Default, Clone)]
pub struct Lease {
    holder: Option<String>,
    expires: u64,
    resigned: bool,
}

impl Lease {
    /// The unit that may call itself leader at `now`; nobody between a resignation and the next claim.
    pub fn holder_at(&self, now: u64) -> Option<&str> {
        if self.resigned || now >= self.expires { None } else { self.holder.as_deref() }
    }

    /// Takes the lease for `unit` if nobody's is running; true when `unit` holds it afterwards.
    /// A resigned lease still has to run out, as in Juju, before another unit gets it.
    pub fn claim(&mut self, unit: &str, now: u64, length: u64) -> bool {
        if now >= self.expires {
            *self = Self { holder: Some(unit.to_owned()), expires: now + length, resigned: false };
        }
        self.holder_at(now) == Some(unit)
    }

    /// Extends the lease of its holder once less than half of it is left.
    pub fn renew(&mut self, unit: &str, now: u64, length: u64) {
        if self.holder_at(now) == Some(unit) && self.expires - now < length / 2 {
            self.expires = now + length;
        }
    }

    /// The holder stops calling itself leader and stops renewing.
    pub fn resign(&mut self, unit: &str) {
        if self.holder.as_deref() == Some(unit) {
            self.resigned = true;
        }
    }

    /// When the running lease ends.
    pub fn expires(&self) -> u64 {
        self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_leaders_lease_must_run_out_before_another_unit_leads() {
        let mut lease = Lease::default();
        assert!(lease.claim("etcd/1", 0, 60));
        assert!(!lease.claim("etcd/0", 59, 60));
        assert_eq!(lease.holder_at(59), Some("etcd/1"));
        assert!(lease.claim("etcd/0", 60, 60));
    }

    #[test]
    fn a_resigned_leader_is_not_leader_and_blocks_others_until_expiry() {
        let mut lease = Lease::default();
        lease.claim("etcd/1", 0, 60);
        lease.resign("etcd/1");
        assert_eq!(lease.holder_at(1), None);
        assert!(!lease.claim("etcd/0", 30, 60));
        assert!(lease.claim("etcd/0", 61, 60));
    }

    #[test]
    fn a_living_leader_keeps_the_lease() {
        let mut lease = Lease::default();
        lease.claim("etcd/1", 0, 60);
        for now in (0..600).step_by(20) {
            lease.renew("etcd/1", now, 60);
            assert_eq!(lease.holder_at(now), Some("etcd/1"));
        }
    }
}
