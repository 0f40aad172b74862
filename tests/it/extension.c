/* An extension of SQLite with the collation "backward" and the function "shout". The positions in the table of functions
   that SQLite passes are part of its stable interface; they are counted from 0 in the order of sqlite3ext.h. */
#include <string.h>

typedef int (*create_collation)(void *, const char *, int, void *, int (*)(void *, int, const void *, int, const void *));
typedef int (*create_function)(void *, const char *, int, int, void *, void (*)(void *, int, void **), void *, void *);
typedef void (*result_int)(void *, int);
typedef int (*value_int)(void *);

static void **functions;

static int backward(void *unused, int a_length, const void *a, int b_length, const void *b) {
    int length = a_length < b_length ? a_length : b_length;
    int order = memcmp(b, a, length);
    return order != 0 ? order : b_length - a_length;
}

static void doubled(void *context, int count, void **values) {
    ((result_int)functions[82])(context, 2 * ((value_int)functions[106])(values[0]));
}

int sqlite3_extension_init(void *database, char **error, void **api) {
    functions = api;
    int code = ((create_collation)functions[43])(database, "backward", 1, 0, backward);
    if (code != 0) return code;
    /* 1 is SQLITE_UTF8, 0x800 SQLITE_DETERMINISTIC. */
    return ((create_function)functions[45])(database, "doubled", 1, 1 | 0x800, 0, doubled, 0, 0);
}
