// SPDX-License-Identifier: GPL-2.0
/* What a caller gives and gets, by the psABI: for tests/kernel/test_abi.py. */
#include <linux/module.h>

/* Unaligned members: in memory, however small. */
struct p5 { u8 a; u32 b; } __packed;
struct p9 { u8 a; u64 b; } __packed;
struct p12 { u32 a; u64 b; } __packed;
struct inside { u8 a; struct { u16 b; } __packed in; } __packed;
/* Aligned ones, and bit-fields: in registers. */
struct s5 { u32 a; u8 b; } __packed;
struct fields { u8 a; u32 b:20; u32 c:12; } __packed;
struct twice { struct s5 of[2]; };

noinline struct p5 give_p5(int x) { struct p5 s = { x, x + 1 }; barrier(); return s; }
noinline struct p9 give_p9(int x) { struct p9 s = { x, x + 1 }; barrier(); return s; }
noinline struct p12 give_p12(int x) { struct p12 s = { x, x + 1 }; barrier(); return s; }
noinline struct inside give_inside(int x) { struct inside s = { x, { x + 1 } }; barrier(); return s; }
noinline struct s5 give_s5(int x) { struct s5 s = { x, x + 1 }; barrier(); return s; }
noinline struct fields give_fields(int x) { struct fields s = { x, 0x12345, 0xabc }; barrier(); return s; }
noinline struct twice give_twice(int x)
{
	struct twice s = { { { x, x + 1 }, { x + 2, x + 3 } } };

	barrier();
	return s;
}

noinline long take_packed(struct p5 a, struct p9 b, struct p12 c, int n)
{
	barrier();
	return a.a + a.b + b.b + c.a + c.b + n;
}
noinline long take_aligned(struct s5 a, struct fields b, struct twice c, int n)
{
	barrier();
	return a.b + b.b + c.of[1].b + n;
}
/* Of a number of 128 bits that gcc takes apart, the debug info has no place. */
struct p3 { u16 a; u8 b; } __packed;
noinline long take_wide(int a, __int128 b, unsigned __int128 c, struct p3 d)
{
	barrier();
	return a + (long)b + (long)c + d.b;
}
noinline __noclone long take_wide_last(long a, long b, long c, long d, long e, __int128 f, u8 g)
{
	barrier();
	return (long)f + g;
}
struct wide { __int128 v; };
union either { __int128 v; u32 words[4]; };
struct deep { struct { struct { struct { int n[2]; } c[1]; } b[1]; } a[2]; };
noinline struct wide give_wide(int x) { struct wide s = { ((__int128)x << 64) - 1 }; barrier(); return s; }
noinline union either give_either(int x) { union either u = { -(__int128)x }; barrier(); return u; }
noinline struct deep give_deep(int x) { struct deep s = { { [1] = { { { { { { x, -x } } } } } } } }; barrier(); return s; }
/* In registers, which gcc stores in the function's frame. */
struct mac { u8 addr[6]; u16 type; };
struct ends { u8 a[9]; u16 end; };
struct three { int a, b, c; };
u8 macs[6] = { 2, 0, 255, 3, 0, 1 };
s8 signs[3] = { -1, 0, 1 };
uint8_t uints[6] = { 2, 0, 255, 3, 0, 1 };
char text[4] = "ab";
unsigned char name[4] = "cd"; /* as a dentry's d_iname */
noinline struct mac give_mac(int x) { struct mac m = { { 2, 0, 255, 3, 0, 1 }, x }; barrier(); return m; }
noinline long take_mac(struct mac m) { barrier(); return m.addr[2]; }
noinline long take_ends(struct ends a, struct three b, int n) { barrier(); return a.a[8] + a.end + b.b + n; }
noinline long take_many(long a, long b, long c, long d, long e, struct three f, long g, struct mac h)
{
	barrier();
	return a + b + c + d + e + f.b + g + h.type;
}

static noinline long step(int n)
{
	switch (n) {
	case 1: return give_p5(1).b + give_p9(2).b + give_p12(3).b + give_inside(4).in.b;
	case 2: return give_s5(1).b + give_fields(2).b + give_twice(3).of[1].b;
	case 3: return take_packed((struct p5){ 1, 2 }, (struct p9){ 3, 4 }, (struct p12){ 5, 6 }, 7);
	case 4: return take_aligned(give_s5(1), give_fields(2), give_twice(3), 7);
	case 5: return take_mac((struct mac){ { 2, 0, 255, 3, 0, 1 }, 9 });
	case 6: return take_ends((struct ends){ { 1, [8] = 9 }, 10 }, (struct three){ 11, -12, 13 }, 14);
	case 7: return take_many(1, 2, 3, 4, 5, (struct three){ 6, -7, 8 }, 9, (struct mac){ { 10 }, 11 });
	case 8: return give_mac(9).type;
	case 9: return take_wide(1, -2, ((unsigned __int128)3 << 64) + 4, (struct p3){ 0x506, 7 });
	case 10: return take_wide_last(1, 2, 3, 4, 5, -((__int128)6 << 64), 7);
	case 11: return (long)give_wide(2).v + give_either(3).words[0] + give_deep(4).a[1].b[0].c[0].n[1];
	}
	return -EINVAL;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	int n, error = kstrtoint(text, 0, &n);

	if (!error)
		pr_info("abi: step %d gives %ld\n", n, step(n));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);
MODULE_LICENSE("GPL");
