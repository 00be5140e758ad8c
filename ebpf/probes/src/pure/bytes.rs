//! From the kernel's TCP counters to the application's bytes.

/// Payload bytes sent: `tcp_sock.bytes_sent` counts what was retransmitted again.
#[inline(always)]
pub(crate) fn payload_sent(bytes_sent: u64, bytes_retrans: u64) -> u64 {
    bytes_sent.saturating_sub(bytes_retrans)
}

/// Payload bytes received: `tcp_sock.bytes_received` follows the sequence number, of which a FIN uses one.
#[inline(always)]
pub(crate) fn payload_received(bytes_received: u64, fin_taken: bool) -> u64 {
    bytes_received.saturating_sub(u64::from(fin_taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_become_payload() {
        for (sent, retransmitted, received, fin, expected) in
            [(0, 0, 0, false, (0, 0)), (100, 0, 6, true, (100, 5)), (2920, 1460, 0, true, (1460, 0))]
        {
            assert_eq!((payload_sent(sent, retransmitted), payload_received(received, fin)), expected);
        }
    }
}
