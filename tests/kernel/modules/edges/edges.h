/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/types.h>

enum grade { GRADE_LOW = -2, GRADE_NONE, GRADE_HIGH };

struct one { int a; };
struct two { long first, second; };
struct three { long x, y, z; };
struct row { u8 kind; u32 value; };

enum colour { RED, GREEN, BLUE = 7 };

/* Of each type that C computes with. */
struct scalars {
	u8 byte;
	s8 sbyte;
	u16 half;
	u32 word;
	s32 sword;
	u64 quad;
	s64 squad;
	char letter;
	bool yes, no;
	enum colour colour;
	enum grade grade;
	void *pointer;
	unsigned int three:3, all:32;
	u64 forty:40;
	int tilt:4;
	enum colour paint:4;
};

struct record {
	unsigned int on:1, level:3;
	int tilt:4;
	u64 wide:40;
	union {
		u32 word;
		struct { u16 low, high; };
	};
	enum grade grade;
	u16 port;
	char tag[4];
	bool yes;
	unsigned __int128 huge;
	__int128 minus;
	struct two *bad;
	int (*op)(int);
	const char *name;
	void *opaque;
	int grid[2][3];
	struct table { int n; struct row rows[]; } *table;
};

long other_step(long by);
