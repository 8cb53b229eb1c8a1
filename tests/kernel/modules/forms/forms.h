/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/module.h>

#undef noinline
#define noinline __attribute__((__noinline__, __noclone__))

struct pair { int a, b; };
/* One definition, and a copy in each file. */
static noinline long of_header(struct pair *p, int n) { barrier(); return p->a * n; }
long in_other(struct pair *p, int n);
