/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/sample.h"

#include <string.h>

#define SAMPLE_DEPTH 16
#define SAMPLE_BYTES 65536 /* a schema may refer to itself, many times over */

static void sample(const struct json *root, const struct json *given, struct buf *out, int depth);

static struct json resolve(const struct json *root, const struct json *schema)
{
    struct json ref = json_member(schema, "$ref"), at = *root;
    char path[256], *part, *rest;

    if (ref.type != JSON_STRING || ref.len - 2 >= sizeof path || ref.len < 4)
        return *schema;
    memcpy(path, ref.at + 1, ref.len - 2);
    path[ref.len - 2] = '\0';
    if (path[0] != '#')
        return *schema;
    for (part = strtok_r(path + 1, "/", &rest); part != NULL; part = strtok_r(NULL, "/", &rest))
        at = json_member(&at, part);
    return at;
}

static void sample_object(const struct json *root, const struct json *schema, struct buf *out,
                          int depth)
{
    struct json properties = json_member(schema, "properties"), key, value;
    const char *comma = "";

    buf_adds(out, "{");
    for (size_t pos = 0; json_next_member(&properties, &pos, &key, &value); comma = ", ") {
        buf_adds(out, comma);
        buf_add(out, key.at, key.len);
        buf_adds(out, ": ");
        sample(root, &value, out, depth + 1);
    }
    buf_adds(out, "}");
}

static bool sample_choice(const struct json *root, const struct json *schema, struct buf *out,
                          int depth)
{
    static const char *const lists[] = {"enum", "anyOf", "oneOf", "allOf"};
    struct json v = json_member(schema, "const"), first;

    if (v.type != JSON_NONE) {
        buf_add(out, v.at, v.len);
        return true;
    }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        size_t pos = 0;

        v = json_member(schema, lists[i]);
        if (!json_next_element(&v, &pos, &first))
            continue;
        if (i == 0)
            buf_add(out, first.at, first.len);
        else
            sample(root, &first, out, depth + 1);
        return true;
    }
    return false;
}

static void sample(const struct json *root, const struct json *given, struct buf *out, int depth)
{
    struct json schema = resolve(root, given), type = json_member(&schema, "type"), first;
    size_t pos = 0;

    if (depth > SAMPLE_DEPTH || out->len > SAMPLE_BYTES) {
        buf_adds(out, "null");
        return;
    }
    if (sample_choice(root, &schema, out, depth))
        return;
    if (json_next_element(&type, &pos, &first))
        type = first;
    if (json_is(&type, "integer") || json_is(&type, "number")) {
        struct json least = json_member(&schema, "minimum");

        if (least.type == JSON_NUMBER)
            buf_add(out, least.at, least.len);
        else
            buf_adds(out, "1");
    } else if (json_is(&type, "boolean")) {
        buf_adds(out, "true");
    } else if (json_is(&type, "null")) {
        buf_adds(out, "null");
    } else if (json_is(&type, "array")) {
        struct json items = json_member(&schema, "items");

        buf_adds(out, "[");
        if (items.type == JSON_OBJECT)
            sample(root, &items, out, depth + 1);
        buf_adds(out, "]");
    } else if (json_is(&type, "object") || json_member(&schema, "properties").type == JSON_OBJECT) {
        sample_object(root, &schema, out, depth);
    } else {
        buf_adds(out, "\"simulated\"");
    }
}

/* Name and schema of one tool, in either shape. */
static void tool_parts(const struct json *tool, struct json *name, struct json *schema)
{
    struct json function = json_member(tool, "function");

    if (function.type != JSON_OBJECT)
        function = *tool;
    *name = json_member(&function, "name");
    *schema = json_member(&function, "parameters");
    if (schema->type != JSON_OBJECT)
        *schema = json_member(&function, "input_schema");
}

static bool same_string(const struct json *a, const struct json *b)
{
    return a->type == JSON_STRING && b->type == JSON_STRING && a->len == b->len &&
           memcmp(a->at, b->at, a->len) == 0;
}

bool sample_tool(const struct json *tools, const struct json *choice, struct buf *name,
                 struct buf *arguments)
{
    struct json kind = json_member(choice, "type"), function = json_member(choice, "function");
    struct json wanted = json_member(function.type == JSON_OBJECT ? &function : choice, "name");
    struct json tool, tool_name, schema;
    bool any = json_is(choice, "required") || json_is(&kind, "any");

    if (!any && wanted.type != JSON_STRING)
        return false;
    for (size_t pos = 0; json_next_element(tools, &pos, &tool);) {
        tool_parts(&tool, &tool_name, &schema);
        if (tool_name.type != JSON_STRING || (!any && !same_string(&tool_name, &wanted)))
            continue;
        json_text(&tool_name, name);
        if (schema.type == JSON_OBJECT)
            sample_object(&schema, &schema, arguments, 0);
        else
            buf_adds(arguments, "{}");
        return true;
    }
    return false;
}

void sample_format(const struct json *format, struct buf *out)
{
    struct json type = json_member(format, "type"), schema;

    if (json_is(&type, "json_object")) {
        buf_adds(out, "{\"simulated\": true}");
    } else if (json_is(&type, "json_schema")) {
        schema = json_member(format, "json_schema");
        schema = json_member(&schema, "schema");
        sample(&schema, &schema, out, 0);
    }
}
