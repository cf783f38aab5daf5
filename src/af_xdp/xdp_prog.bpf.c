// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The program on both ports of a link, loaded once for each. While a gateway runs, every frame
// goes to the socket of its receive queue; with none, the link does what `on_exit` says.
//
// Nothing is included, so that the object depends on the compiler alone:
//   clang -O2 -g -target bpf -mcpu=v3 -fdebug-compilation-dir=. -c xdp_prog.bpf.c -o xdp_prog.bpf.o
//   llvm-strip -g xdp_prog.bpf.o

typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
// Numbers of the kernel's interface: include/uapi/linux/bpf.h.
#define BPF_MAP_TYPE_DEVMAP 14
#define BPF_MAP_TYPE_XSKMAP 17
#define XDP_DROP 1
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;

struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
};

// Slot i: the socket of receive queue i. Slot 0 is filled last at start, and the kernel empties
// all slots when the process ends, however it ends: slot 0 says whether a gateway runs.
struct {
	int (*type)[BPF_MAP_TYPE_XSKMAP];
	u32 *key;
	u32 *value;
	int (*max_entries)[256];
} sockets SECTION(".maps");

// Slot 0: the other port of the link.
struct {
	int (*type)[BPF_MAP_TYPE_DEVMAP];
	u32 *key;
	u32 *value;
	int (*max_entries)[1];
} other_port SECTION(".maps");

// 1 where on_exit = "open"; set before loading, so that the verifier removes the dead branch.
const volatile u32 on_exit_open = 0;

SECTION("xdp")
int portcullis(struct xdp_md *context)
{
	// While a gateway runs a queue without a socket drops: it must not be a way round the policy.
	if (on_exit_open) {
		u32 first = 0;

		if (!bpf_map_lookup_elem(&sockets, &first))
			return bpf_redirect_map(&other_port, 0, XDP_DROP);
	}
	return bpf_redirect_map(&sockets, context->rx_queue_index, XDP_DROP);
}

char program_license[] SECTION("license") = "MIT";
