//! Documents with one problem each in their prefix lists and interfaces; `problems` reads them.

use super::problems::{Case, addressed, interface, list};

/// Each problem of prefix lists and interfaces that refuses a document.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn others() -> Vec<Case> {
    let case = |name, text: String, line, column, part| (name, text, (line, column), part);
    vec![
        // Prefix lists.
        case(
            "list key",
            "[prefix_lists.a]\nentris = []\n".into(),
            2,
            1,
            "did you mean `entries`?",
        ),
        case(
            "no entries",
            "[prefix_lists.a]\n".into(),
            1,
            1,
            "has no `entries`",
        ),
        case(
            "list name",
            "[prefix_lists.pl-a]\nentries = []\n".into(),
            1,
            15,
            "like an id",
        ),
        case(
            "entry type",
            list("[1]"),
            2,
            12,
            "`entries` must be a prefix",
        ),
        case(
            "entry key",
            list("[{ cidr = \"::/0\", name = \"x\" }]"),
            2,
            29,
            "unknown key `name`",
        ),
        case(
            "entry cidr",
            list("[{ description = \"x\" }]"),
            2,
            12,
            "has no `cidr`",
        ),
        case(
            "entry address",
            list("[\"192.0.2.1\"]"),
            2,
            12,
            "write 192.0.2.1/32",
        ),
        // Interfaces.
        case(
            "interface key",
            addressed("group = []"),
            3,
            1,
            "did you mean `groups`?",
        ),
        case(
            "interface name",
            "[interfaces.eni-1]\naddresses = \"10.0.0.1\"\n".into(),
            1,
            13,
            "like an id",
        ),
        case(
            "no address",
            interface("groups = []"),
            1,
            1,
            "has no `addresses`",
        ),
        case("empty", interface("addresses = []"), 2, 13, "owns nothing"),
        case(
            "address type",
            interface("addresses = 3"),
            2,
            13,
            "must be a string",
        ),
        case(
            "address",
            interface("addresses = \"ten\""),
            2,
            13,
            "`ten` is no prefix",
        ),
        case(
            "unspecified",
            interface("addresses = \"0.0.0.0\""),
            2,
            13,
            "unspecified",
        ),
        case(
            "unspecified 6",
            interface("addresses = \"::\""),
            2,
            13,
            "unspecified",
        ),
        case(
            "loopback",
            interface("addresses = \"127.0.0.0/8\""),
            2,
            13,
            "loopback",
        ),
        case(
            "loopback 6",
            interface("addresses = \"::1\""),
            2,
            13,
            "loopback",
        ),
        case(
            "multicast",
            interface("addresses = \"224.0.0.1\""),
            2,
            13,
            "multicast",
        ),
        case(
            "multicast 6",
            interface("addresses = \"ff02::/16\""),
            2,
            13,
            "multicast",
        ),
        case(
            "broadcast",
            interface("addresses = \"255.255.255.255\""),
            2,
            13,
            "broadcast",
        ),
        case(
            "mapped",
            interface("addresses = \"::ffff:10.0.0.1\""),
            2,
            13,
            "IPv4 written as IPv6",
        ),
        case(
            "unknown group",
            addressed("groups = [\"web\"]"),
            3,
            11,
            "there is no security group `web`",
        ),
        case(
            "group type",
            addressed("groups = [1]"),
            3,
            11,
            "must be a string",
        ),
        case(
            "link type",
            addressed("link = 1"),
            3,
            8,
            "`link` must be a string",
        ),
        case(
            "link empty",
            addressed("link = \"\""),
            3,
            8,
            "the name of the link is empty",
        ),
        case(
            "vlan 0",
            addressed("vlan = 0"),
            3,
            8,
            "from 1 to 4094, not 0",
        ),
        case(
            "vlan 4095",
            addressed("vlan = 4095"),
            3,
            8,
            "from 1 to 4094, not 4095",
        ),
        case(
            "vpc",
            addressed("vpc_id = \"a b\""),
            3,
            10,
            "`vpc_id` is not 1 to 255",
        ),
        case(
            "instance",
            addressed("instance_id = \"\""),
            3,
            15,
            "`instance_id` is not",
        ),
        case(
            "same address",
            interface("addresses = [\"10.0.0.1\", \"10.0.0.1/32\"]"),
            2,
            26,
            "10.0.0.1/32 is twice an address of `i` (remove one of the two)",
        ),
        case(
            "others' address",
            addressed("[interfaces.j]\naddresses = \"10.0.0.1\""),
            4,
            13,
            "10.0.0.1/32 is an address of both `i` and `j`",
        ),
        case(
            "link left out",
            addressed(
                "link = \"a\"\n[interfaces.j]\naddresses = \"10.0.0.2\"\nlink = \"b\"\n\
                 [interfaces.k]\naddresses = [\"10.0.0.3\", \"10.0.0.4\"]",
            ),
            8,
            14,
            "the interface `k` names no link, and there are several",
        ),
    ]
}
